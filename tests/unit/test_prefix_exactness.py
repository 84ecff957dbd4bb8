"""The same losses with cache and without, on networks of every family."""

import numpy as np
import pytest
import tensorflow as tf
from test_data_scan import dataset_of, encode

from rayft.config import parse_config
from rayft.data.order import steps_per_epoch
from rayft.data.training_batches import train_batches
from rayft.learn.checkpoint import dump_state, load_state
from rayft.learn.forward import Forward
from rayft.learn.loop import Plan, train_epochs
from rayft.learn.step import Task
from rayft.model.network import build_network
from rayft.prefix.boundary import describe_boundary
from rayft.prefix.build import Builder
from rayft.prefix.ensure import open_caches
from rayft.prefix.store import CacheFolder

SIDES = {"vgg16": 32, "mobilenetv2": 32, "resnet50": 32, "efficientnet_lite0": 32}
DEPTHS = (0.34, 0.67, "all")
# Two of them in every run; the whole matrix with `-m full`.
ALWAYS = [("vgg16", "all"), ("efficientnet_lite0", 0.67)]
CASES = [
    pytest.param(name, depth, marks=[] if (name, depth) in ALWAYS else pytest.mark.full)
    for name in SIDES
    for depth in DEPTHS
]


def prepare(name, depth, precision, storage):
    config = parse_config(
        {
            "storage": str(storage),
            "data": {"source": "none", "image_size": SIDES[name], "global_batch_size": 8},
            "model": {"backbone": name, "weights": "none"},
            "freeze": {"depth": depth, "batch_norm": "frozen"},
            "optim": {"learning_rate": 1e-3},
            "train": {"epochs": 2, "precision": precision},
            "prefix_cache": "on",
        }
    )
    dataset = dataset_of([encode() for _ in range(20)])
    network = build_network(config, len(dataset.labels))
    boundary = describe_boundary(config, dataset, network, network.frozen_depth)
    builder, folder = Builder(config, dataset, network), CacheFolder.of(config.storage)
    opened = open_caches(config, dataset, [boundary], folder, builder, share=(0, 1), tell=print, alive=lambda: None)
    # The files stay mapped; nobody evicts them here.
    opened.close()
    return config, dataset, network, opened.caches[0]


def losses(config, dataset, task, image_size, features):
    per_epoch = steps_per_epoch(dataset.size("train"), 8)
    batches = train_batches(dataset, config, image_size, rank=0, num_workers=1, features=features)
    return np.concatenate([p.losses for p in train_epochs(task, batches, dict, Plan(per_epoch, config.train.epochs))])


@pytest.mark.parametrize(("name", "depth"), CASES)
def test_in_float64_the_losses_agree_to_1e_9(name, depth, tmp_path):
    config, dataset, network, cached = prepare(name, depth, "float64", tmp_path)
    task = Task(config, network, total_steps=6)
    start = dump_state(task)
    uncached = losses(config, dataset, task, network.image_size, None)
    load_state(task, start)
    # The same task, given activations: as one built without a prefix.
    task.model.prefix = None
    assert largest(losses(config, dataset, task, network.image_size, cached), uncached) < 1e-9
    assert np.ptp(uncached) > 0


@pytest.mark.parametrize(("name", "depth"), CASES)
def test_in_float32_activations_agree_to_1e_5_and_the_first_gradient_to_1e_4(name, depth, tmp_path):
    config, dataset, network, cached = prepare(name, depth, "float32", tmp_path)
    task = Task(config, network, total_steps=6)
    pictures = next(iter(train_batches(dataset, config, network.image_size, rank=0, num_workers=1)))
    stored = next(iter(train_batches(dataset, config, network.image_size, rank=0, num_workers=1, features=cached)))
    # As training without a cache computes them, and as the plain network does.
    for computed in (task.model.prefix(pictures["image"]), network.split()[0](pictures["image"], training=False)):
        assert relative("activations", stored["features"], computed) < 1e-5

    def gradient(forward, inputs):
        # Dropout would draw from the state of the process outside of a step.
        with tf.GradientTape() as tape:
            logits = forward(inputs, training=False)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(pictures["label"], logits))
        parts = tape.gradient(loss, task.variable_values)
        return np.concatenate([np.ravel(part) for part in parts if part is not None])

    ours = gradient(Forward(network, cached=True), stored["features"])
    for forward in (task.model, network.model):
        assert relative("first gradient", ours, gradient(forward, pictures["image"])) < 1e-4


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.full) for name in SIDES])
def test_in_float32_with_the_head_alone_the_losses_agree_to_1e_5(name, tmp_path):
    config, dataset, network, cached = prepare(name, "all", "float32", tmp_path)
    task = Task(config, network, total_steps=6)
    start = dump_state(task)
    uncached = losses(config, dataset, task, network.image_size, None)
    load_state(task, start)
    task.model.prefix = None
    assert largest(losses(config, dataset, task, network.image_size, cached), uncached) < 1e-5
    assert np.ptp(uncached) > 0


def largest(ours, theirs):
    assert ours.shape == theirs.shape
    difference = np.max(np.abs(ours - theirs) / np.abs(theirs))
    print(f"largest relative difference of {len(ours)} losses: {difference:.1e}")
    return difference


def relative(what, ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    print(f"{what}: {difference:.1e}")
    return difference
