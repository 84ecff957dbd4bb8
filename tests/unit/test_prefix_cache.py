import io
import shutil
import threading
from dataclasses import replace

import keras
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from PIL import Image
from test_data_scan import ListReader

from rayft.config import parse_config
from rayft.data.dataset import Dataset, without_test
from rayft.data.evaluation_batches import evaluation_batches
from rayft.data.order import steps_per_epoch
from rayft.data.training_batches import train_batches
from rayft.errors import ConfigError
from rayft.learn.evaluate import make_evaluate
from rayft.learn.loop import Plan, train_epochs
from rayft.learn.session import Output, Place, run_session
from rayft.learn.step import Task, train_step
from rayft.model.network import build_network
from rayft.prefix import build as prefix_build
from rayft.prefix import compute as prefix_compute
from rayft.prefix import decide as prefix_decide
from rayft.prefix.boundary import describe_boundary
from rayft.prefix.build import Builder
from rayft.prefix.compute import compile_prefix
from rayft.prefix.decide import decide
from rayft.prefix.ensure import ensure_cache, open_caches
from rayft.prefix.evict import list_caches
from rayft.prefix.recipe import BATCH_ROWS
from rayft.prefix.store import CacheFolder
from rayft.runs import RunFolder

SIDE = 8
AUGMENT = {"horizontal_flip": True, "brightness": 0.3}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for block in (1, 2, 3):
        x = keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name=f"block{block}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{block}_bn")(x)
        x = keras.layers.ReLU(6, name=f"block{block}_relu")(x)
    path = tmp_path_factory.mktemp("model") / "small.keras"
    model = keras.Model(inputs, x)
    draws = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([draws.uniform(0.5, 1.5, 4) for _ in range(4)])
    model.save(path)
    return str(path)


def dataset_of(count=70):
    draws = np.random.default_rng(3)
    pictures = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(draws.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    examples = pa.table(
        {
            "row": pa.array(range(count), pa.int64()),
            "label": pa.array([n % 3 for n in range(count)], pa.int32()),
            "name": [str(n) for n in range(count)],
            "split": [("train", "train", "validation", "train", "test")[n % 5] for n in range(count)],
        }
    )
    return Dataset(examples, ("a", "b", "c"), "f" * 64, ListReader(pictures))


def config_of(backbone, storage, **changes):
    tree = {
        "storage": str(storage),
        "seed": 5,
        "data": {"source": "none", "global_batch_size": 6},
        "model": {"backbone": backbone, "dropout": 0.3},
        "freeze": {"depth": 2},
        "optim": {"learning_rate": 0.01},
        "train": {"epochs": 3},
        "prefix_cache": {"mode": "on"},
    }
    for name, values in changes.items():
        tree[name] = {**tree[name], **values}
    return parse_config(tree)


def open_cache(config, dataset, network, **options):
    boundary = describe_boundary(config, dataset, network, network.frozen_depth)
    arguments = {"share": (0, 1), "tell": lambda state: None, "alive": lambda: None, **options}
    builder = Builder(config, dataset, network)
    return open_caches(config, dataset, [boundary], CacheFolder.of(config.storage), builder, **arguments)


def trace(config, dataset, *, cached):
    """Losses of a whole run, and its validation log-loss."""
    network = build_network(config, 3)
    per_epoch = steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
    task = Task(config, network, total_steps=per_epoch * config.train.epochs, cached=cached)
    opened = open_cache(config, dataset, network) if cached else None
    features = opened.caches[0] if opened else None
    share = {"rank": 0, "num_workers": 1, "features": features}
    batches = train_batches(dataset, config, network.image_size, **share)
    validation = evaluation_batches(dataset, config, network.image_size, "validation", **share, batch_size=6)
    losses = []
    for progress in train_epochs(task, batches, dict, Plan(per_epoch, config.train.epochs)):
        losses.extend(progress.losses)
    metrics = make_evaluate(task, 3)(validation)
    if opened:
        opened.close()
    return np.array([*losses, metrics["log_loss"]])


@pytest.mark.parametrize(
    "changes", [{}, {"data": {"augment": AUGMENT}, "prefix_cache": {"mode": "on", "views": 2}}], ids=["plain", "views"]
)
def test_cached_and_uncached_training_give_the_same_losses_in_float64(changes, backbone, tmp_path):
    config = config_of(backbone, tmp_path, train={"precision": "float64"}, **changes)
    dataset = dataset_of()
    ours, theirs = trace(config, dataset, cached=True), trace(config, dataset, cached=False)
    assert np.ptp(ours) > 1e-3
    print(f"largest relative difference: {np.max(np.abs(ours / theirs - 1)):.1e}")
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"train": {"precision": "float64"}, "data": {"augment": AUGMENT}, "prefix_cache": {"views": 2}}, 1e-12),
        ({"freeze": {"depth": "all"}}, 1e-5),
        ({"freeze": {"depth": "all"}, "prefix_cache": {"mode": "on", "dtype": "bfloat16"}}, 2**-8),
    ],
)
def test_cached_batches_hold_what_uncached_training_computes(backbone, tmp_path, changes, tolerance):
    config, dataset = config_of(backbone, tmp_path, **changes), dataset_of()
    network = build_network(config, 3)
    opened = open_cache(config, dataset, network)
    prefix = tf.function(network.split()[0])
    share = {"rank": 1, "num_workers": 2}
    pictures = train_batches(dataset, config, network.image_size, **share)
    cached = train_batches(dataset, config, network.image_size, **share, features=opened.caches[0])
    for theirs, ours in zip(pictures.as_numpy_iterator(), cached.as_numpy_iterator(), strict=True):
        computed = prefix(theirs.pop("image"), training=False).numpy()
        features = np.asarray(ours.pop("features"), computed.dtype)
        np.testing.assert_allclose(features, computed, rtol=tolerance, atol=10 * tolerance)
        for name, value in theirs.items():
            np.testing.assert_array_equal(ours[name], value, err_msg=name)
    opened.close()


def test_views_are_a_few_that_come_again_and_only_the_trained_pictures_have_them(backbone, tmp_path):
    config = config_of(backbone, tmp_path, data={"augment": AUGMENT}, prefix_cache={"views": 2})
    dataset = dataset_of()
    network = build_network(config, 3)
    opened = open_cache(config, dataset, network)
    held = list_caches(CacheFolder.of(config.storage))
    assert sorted((one.recipe["num_rows"], (one.recipe["view"] or {}).get("number")) for one in held[:2]) == [
        (42, 0),
        (42, 1),
    ]
    assert held[2].recipe["num_rows"] == 28
    first, second = opened.caches[0].views
    rows = dataset.split("train")["row"].to_numpy()
    assert not np.allclose(first.take(rows), second.take(rows))
    epochs = [[], [], []]
    for batch in train_batches(dataset, config, network.image_size, rank=0, num_workers=1).as_numpy_iterator():
        epochs[batch["step"] // 7].append(batch["image"][batch["weight"] == 1])
    sums = [np.sort(np.concatenate(images).sum(axis=(1, 2, 3))) for images in epochs]
    # Without a cache the third epoch shows the views of the first as well.
    np.testing.assert_allclose(sums[0], sums[2], rtol=1e-6)
    assert not np.allclose(sums[0], sums[1])
    opened.close()


def test_one_pass_computes_several_depths_and_a_run_finds_each(backbone, tmp_path):
    dataset, config = dataset_of(), config_of(backbone, tmp_path)
    shares = []
    ensured = ensure_cache(config, dataset, ["all", 1, "block2", 3], progress=lambda state: shares.append(state))
    assert [each.used for each in ensured] == [True] * 4
    assert ensured[0].keys == ensured[3].keys
    assert dataset.reader.num_read < 2 * 96  # 70 pictures in batches of 32, once.
    assert shares[-1]["share"] == pytest.approx(1)
    read = dataset.reader.num_read
    for depth, name in zip(("all", 1, 2), (ensured[0], ensured[1], ensured[2]), strict=True):
        own = config_of(backbone, tmp_path, freeze={"depth": depth})
        network = build_network(own, 3)
        opened = open_cache(own, dataset, network)
        assert opened.build_s == 0
        assert opened.caches[0].plain.recipe.key == name.keys[0]
        images = tf.constant(
            [np.asarray(Image.open(io.BytesIO(dataset.reader.pictures[n]))) for n in (7, 2)], tf.float32
        )
        np.testing.assert_allclose(
            opened.caches[0].plain.take(np.array([7, 2])), network.split()[0](images, training=False), atol=1e-4
        )
        opened.close()
    assert dataset.reader.num_read == read


def test_another_split_finds_the_same_cache_and_other_weights_do_not(backbone, tmp_path):
    dataset, config = dataset_of(), config_of(backbone, tmp_path)
    (first,) = ensure_cache(config, dataset)
    moved = replace(
        dataset, examples=dataset.examples.set_column(3, "split", pa.array(["train"] * 60 + ["validation"] * 10))
    )
    (second,) = ensure_cache(config_of(backbone, tmp_path, optim={"learning_rate": 0.5}), moved)
    assert second.keys == first.keys
    assert second.build_s == 0
    (third,) = ensure_cache(config_of(backbone, tmp_path, model={"weights": "none"}), dataset)
    assert third.keys != first.keys


def test_several_builders_at_once_share_the_work_and_agree_with_one(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(prefix_build, "_POLL_S", 0.05)
    dataset = dataset_of(150)
    results = {}

    def build(rank, count, storage):
        results[rank, storage] = ensure_cache(config_of(backbone, tmp_path / storage), dataset, share=(rank, count))

    build(0, 1, "one")
    # Two that share the work, and a run of its own that builds the same key.
    threads = [threading.Thread(target=build, args=(*share, "many")) for share in ((0, 2), (1, 2), (0, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    contents = []
    for storage in ("one", "many"):
        entries = list_caches(CacheFolder.of(str(tmp_path / storage)))
        assert [entry.complete for entry in entries] == [True]
        files = (tmp_path / storage / "cache" / "prefix" / entries[0].key).glob("*.arrow")
        contents.append(sorted(path.name for path in files))
    # Names hold digests: whoever computed a shard, it has the same bytes.
    assert contents[0] == contents[1]
    assert len(contents[0]) == 5


def test_a_builder_that_died_is_taken_over_and_what_it_finished_is_kept(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(prefix_build, "_POLL_S", 0.05)
    monkeypatch.setattr(prefix_build, "_PATIENCE_S", 0.2)
    dataset, config = dataset_of(150), config_of(backbone, tmp_path)

    def die():
        entry = next((tmp_path / "cache" / "prefix").iterdir())
        if len(list(entry.glob("*.arrow"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ensure_cache(config, dataset, alive=die)
    entry = next((tmp_path / "cache" / "prefix").iterdir())
    finished = {path.name: path.stat().st_mtime_ns for path in entry.glob("*.arrow")}
    assert len(finished) == 2
    assert not (entry / "complete.json").exists()
    # The first of two builders; the second never comes.
    ensure_cache(config, dataset, share=(0, 2))
    assert (entry / "complete.json").exists()
    assert {name: (entry / name).stat().st_mtime_ns for name in finished} == finished


def test_what_stands_in_the_way_is_named(backbone, tmp_path):
    dataset = dataset_of()

    def reason(**changes):
        config = config_of(backbone, tmp_path, **{"prefix_cache": {"mode": "auto"}, **changes})
        network = build_network(config, 3)
        boundary = describe_boundary(config, dataset, network, network.frozen_depth)
        folder = CacheFolder.of(config.storage)
        on = config.model_copy(update={"prefix_cache": config.prefix_cache.model_copy(update={"mode": "on"})})
        with pytest.raises(ConfigError):
            decide(on, dataset, boundary, folder, None, 3)
        decision = decide(config, dataset, boundary, folder, None, 3)
        assert not decision.used
        return decision.reason

    assert "no block is frozen" in reason(freeze={"depth": 0})
    assert "new pictures in every epoch" in reason(data={"augment": AUGMENT})
    assert "test_prefix_cache:reads_images" in reason(train={"step": "test_prefix_cache:reads_images"})
    assert "max_bytes is 1000" in reason(prefix_cache={"mode": "auto", "max_bytes": 1000})


def reads_images(task, batch):
    return task.apply([None] * len(task.variables), tf.reduce_sum(batch["image"]))


def declares(task, batch):
    return train_step(task, batch)


declares.uses_prefix = True


def test_a_step_that_declares_itself_gets_features_and_one_that_reads_pictures_a_clear_error(backbone, tmp_path):
    dataset = dataset_of()
    config = config_of(backbone, tmp_path, train={"step": "test_prefix_cache:declares", "epochs": 1})
    assert np.isfinite(trace(config, dataset, cached=True)).all()
    reads = config_of(backbone, tmp_path, train={"step": "test_prefix_cache:reads_images", "epochs": 1})
    network = build_network(reads, 3)
    task = Task(reads, network, total_steps=1, cached=True)
    features = tf.zeros([6, *network.boundary.shape[1:]])
    batch = {
        "features": features,
        "label": tf.zeros([6], tf.int32),
        "weight": tf.ones([6]),
        "count": tf.constant(6.0),
        "position": tf.range(6),
        "step": tf.constant(0, tf.int64),
    }
    with pytest.raises(ConfigError, match="batch\\['image'\\]"):
        task.run_step(batch)


def test_auto_declines_what_is_read_once_and_takes_what_is_read_often(backbone, tmp_path):
    dataset, config = dataset_of(), config_of(backbone, tmp_path, prefix_cache={"mode": "auto"})
    network = build_network(config, 3)
    boundary, folder = describe_boundary(config, dataset, network, 2), CacheFolder.of(config.storage)
    builder = Builder(config, dataset, network)
    once = decide(config, dataset, boundary, folder, builder, 1)
    assert not once.used
    assert "70" in once.reason
    often = decide(config, dataset, boundary, folder, builder, 1e6)
    assert often.used
    assert "saves about" in often.reason


def test_a_cache_is_weighed_against_what_a_step_takes_by_tensorflow(backbone, tmp_path, monkeypatch):
    dataset, config = dataset_of(), config_of(backbone, tmp_path, prefix_cache={"mode": "auto"})
    network = build_network(config, 3)
    boundary, folder = describe_boundary(config, dataset, network, 2), CacheFolder.of(config.storage)
    prefix_s = {None: 0.001, "tensorflow": 0.5}
    # 168 readings, 70 pictures: 1 ms in the pass does not pay for 10 ms of writing, half a second in each step does.
    monkeypatch.setattr(
        prefix_decide, "measure", lambda *parts, engine=None: prefix_decide.Probe(0.0, prefix_s[engine], 0.0, 0.01)
    )
    decision = decide(config, dataset, boundary, folder, Builder(config, dataset, network), 3)
    assert decision.used
    assert "500.00 ms in the prefix" in decision.reason
    prefix_s["tensorflow"] = 0.002
    assert not decide(config, dataset, boundary, folder, Builder(config, dataset, network), 3).used


@keras.saving.register_keras_serializable("tests")
class Doubled(keras.layers.Layer):
    """A layer that rayft knows nothing of."""

    def call(self, values):
        return 2 * values

    def get_config(self):
        return super().get_config()


def test_depths_in_front_of_and_behind_an_unknown_layer_are_computed_in_passes_of_their_own(tmp_path):
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for block in (1, 2):
        x = keras.layers.Conv2D(4, 3, padding="same", name=f"block{block}_conv")(x)
        x = (keras.layers.ReLU if block == 1 else Doubled)(name=f"block{block}_end")(x)
    keras.Model(inputs, x).save(tmp_path / "own.keras")
    config, dataset = config_of(str(tmp_path / "own.keras"), tmp_path, freeze={"depth": "all"}), dataset_of()
    shares = []
    ensured = ensure_cache(config, dataset, ["all", 1], progress=lambda state: shares.append(state["share"]))
    assert shares == sorted(shares)
    assert shares[-1] == 1
    held = {each.key: each.recipe["engine"].split()[0] for each in list_caches(CacheFolder.of(config.storage))}
    assert [held[each.keys[0]] for each in ensured] == ["tensorflow", "openvino"]
    network = build_network(config, 3)
    opened = open_cache(config, dataset, network)
    images = tf.constant([np.asarray(Image.open(io.BytesIO(dataset.reader.pictures[n]))) for n in (7, 2)], tf.float32)
    taken = opened.caches[0].plain.take(np.array([7, 2]))
    np.testing.assert_allclose(taken, network.split()[0](images, training=False), atol=1e-4)
    opened.close()


def place():
    return Place(0, 1, lambda value: value, lambda: None)


def test_a_run_trains_on_its_cache_says_so_and_resumes_bit_for_bit(backbone, tmp_path):
    dataset = dataset_of()
    results = {}
    for storage, stop_after in (("whole", None), ("cut", 9)):
        config = config_of(backbone, tmp_path / storage, train={"checkpoint_every_steps": 4})
        seen = []

        def observe(state, seen=seen, stop_after=stop_after):
            seen.append(state)
            return stop_after is not None and state.get("step", 0) >= stop_after

        results[storage] = run_session(config, dataset, place(), observe, tf.distribute.get_strategy())
        about_the_cache = [notice for notice in seen[-1]["notices"] if notice.startswith("prefix cache")]
        assert about_the_cache == ["prefix cache used: prefix_cache.mode is on; 71.7 kB"]
    assert results["cut"] is None
    entry = next((tmp_path / "cut" / "cache" / "prefix").iterdir())
    # Damaged while the run lay still: found, named, computed again.
    shard = sorted(entry.glob("*.arrow"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    seen = []
    resumed = run_session(
        config, dataset, place(), lambda state: bool(seen.append(state)), tf.distribute.get_strategy()
    )
    assert any(str(shard) in text for text in seen[-1]["notices"])
    whole = results["whole"]
    assert resumed["final"] == whole["final"]
    assert whole["prefix_cache"]["used"]
    assert whole["prefix_cache"]["build_s"] > 0
    assert whole["prefix_cache"]["bytes"] == 70 * 4 * SIDE * SIDE * 4
    lines = [(tmp_path / name / "runs" / "finetune" / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    without_speed = [[line.split('"examples_per_s"')[0] for line in text.splitlines()] for text in lines]
    assert without_speed[0] == without_speed[1]


def test_a_prefix_computed_in_several_calls_gives_the_same_activations(backbone, tmp_path, monkeypatch):
    config = config_of(backbone, tmp_path)
    network = build_network(config, 3)
    images = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH_ROWS, SIDE, SIDE, 3)).astype("float32"))
    whole = compile_prefix(network.model, [network.boundary], ["float32"])(images)[0]
    # Of a picture, the largest activation has 4 x SIDE x SIDE numbers.
    monkeypatch.setattr(prefix_compute, "_MOST_BYTES", 5 * 4 * 4 * SIDE * SIDE)
    assert prefix_compute._rows_a_call(network.model) == 4
    parts = compile_prefix(network.model, [network.boundary], ["float32"])(images)[0]
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_evicted", [False, True])
def test_a_trained_run_is_tested_on_its_cache_and_builds_none_for_that(backbone, tmp_path, is_evicted):
    config, everything = config_of(backbone, tmp_path), dataset_of()
    folder = RunFolder.of(config)
    folder.storage.make_folder()

    def run(dataset, package):
        strategy = tf.distribute.get_strategy()
        return run_session(config, dataset, place(), lambda state: False, strategy, output=Output(folder, package))

    trained = run(without_test(everything), None)
    (cache,) = (tmp_path / "cache" / "prefix").iterdir()
    if is_evicted:
        shutil.rmtree(cache)
    tested = run(everything, folder.package)
    assert (trained["prefix_cache"]["used"], tested["prefix_cache"]["used"]) == (True, not is_evicted)
    assert cache.exists() is not is_evicted
    assert len(list(cache.parent.iterdir())) == (not is_evicted)
    assert "test_accuracy" in tested["final"]
