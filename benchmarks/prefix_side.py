"""Measured process of ``prefix.py``: one piece of work, its seconds as JSON on the last line."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_SAMPLE_S = 0.02


def main() -> None:
    """Do the work named by the first argument with the settings of the second."""
    work, settings = sys.argv[1], json.loads(sys.argv[2])
    os.sched_setaffinity(0, settings["cores"])
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    started = time.perf_counter()
    result = WORK[work](settings)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({**result, "process_s": time.perf_counter() - started, "peak_bytes": peak}), flush=True)
    os._exit(0)


def train_cached(settings: dict[str, Any]) -> dict[str, Any]:
    """A run of rayft's session, Ray left out, from the built network to the last epoch."""
    config, _ = _prepare(settings)
    from rayft.data.dataset import open_dataset
    from rayft.data.order import steps_per_epoch
    from rayft.data.training_batches import train_batches
    from rayft.learn.loop import Plan, train_epochs
    from rayft.learn.step import Task
    from rayft.model.network import build_network
    from rayft.prefix.boundary import describe_boundary
    from rayft.prefix.build import Builder
    from rayft.prefix.ensure import open_caches
    from rayft.prefix.store import CacheFolder

    dataset = open_dataset(config)
    network = build_network(config, len(dataset.labels))
    per_epoch = steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
    epochs = config.train.epochs
    task = Task(config, network, total_steps=per_epoch * epochs, cached=True)
    with _Clock() as clock:
        boundary = describe_boundary(config, dataset, network, network.frozen_depth)
        builder, folder = Builder(config, dataset, network), CacheFolder.of(config.storage)
        opened = open_caches(
            config, dataset, [boundary], folder, builder, share=(0, 1), tell=lambda _: None, alive=lambda: None
        )
        features = opened.caches[0]
        batches = train_batches(dataset, config, network.image_size, rank=0, num_workers=1, features=features)
        losses = [p.losses[-1] for p in train_epochs(task, batches, dict, Plan(per_epoch, epochs))]
    # Every split is computed, the others than train for evaluation.
    return {**clock.figures, "build_s": opened.build_s, "loss": float(losses[-1])}


def train_fit(settings: dict[str, Any]) -> dict[str, Any]:
    """Keras' ``model.fit`` on the same network and pictures."""
    config, _ = _prepare(settings)
    import keras
    from setting import Setting
    from source import encoded_batches

    from rayft.data.dataset import open_dataset
    from rayft.model.layers import portable
    from rayft.model.network import build_network

    dataset = open_dataset(config)
    network = build_network(config, len(dataset.labels))
    model = portable(network.model)
    model.compile(
        optimizer=keras.optimizers.Adam(config.optim.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    setting = Setting(config=settings["config"], data="", source="encoded", cores=settings["cores"])
    batches = encoded_batches(dataset, setting, network.image_size)
    with _Clock() as clock:
        history = model.fit(batches, epochs=config.train.epochs, verbose=0)
    return {**clock.figures, "loss": float(history.history["loss"][-1])}


def forward(settings: dict[str, Any]) -> dict[str, Any]:
    """The prefix as a pass computes it, by TensorFlow's graph, and the plain network's own ways; no decoding."""
    config, tf = _prepare(settings)
    import keras
    import numpy as np

    from rayft.model.layers import portable
    from rayft.model.network import build_network
    from rayft.prefix.compute import compile_prefix
    from rayft.prefix.engine import choose_engine
    from rayft.prefix.recipe import BATCH_ROWS

    network = build_network(config, 11)
    prefix = keras.Model(network.model.inputs[0], network.boundary)
    plain = portable(prefix)
    cut, dtypes, threads = [network.boundary], [network.boundary.dtype], len(settings["cores"])
    compute = compile_prefix(network.model, cut, dtypes, engine=choose_engine(prefix, "auto"), threads=threads)
    fused = compile_prefix(network.model, cut, dtypes)
    images = np.random.default_rng(0).uniform(0, 255, (BATCH_ROWS, *network.image_size, 3)).astype("float32")
    tensor = tf.constant(images)
    graph = tf.function(lambda batch: plain(batch, training=False), autograph=False)
    sides: dict[str, Callable[[], Any]] = {
        "prefix": lambda: compute(tensor)[0],
        "fused": lambda: fused(tensor)[0],
        "graph": lambda: graph(tensor).numpy(),
        "call": lambda: plain(tensor, training=False).numpy(),
        "predict": lambda: plain.predict_on_batch(images),
    }
    difference = float(np.abs(sides["prefix"]() - sides["graph"]()).max() / np.abs(sides["graph"]()).max())
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(settings["rounds"] + 2):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if index >= 2:
                seconds[name].append(time.perf_counter() - started)
    medians = {name: sorted(values)[len(values) // 2] for name, values in seconds.items()}
    return {"seconds_a_batch": medians, "difference": difference}


def trial(settings: dict[str, Any]) -> dict[str, Any]:
    """Sessions one after the other in one process, as a light trial runs them, and their suffix alone."""
    config, tf = _prepare(settings)
    from rayft.config import parse_config
    from rayft.data.dataset import open_dataset, without_test
    from rayft.learn.session import Output, Place, run_session
    from rayft.learn.workshop import Workshop
    from rayft.runs import RunFolder

    dataset, workshop, sessions = without_test(open_dataset(config)), Workshop(), []
    rate = config.optim.learning_rate
    # The first one builds the cache; another depth comes between.
    depths = [config.freeze.depth, settings["other"], *[config.freeze.depth] * settings["rounds"]]
    for number, depth in enumerate(depths):
        tree = {**settings["config"], "freeze": {**settings["config"]["freeze"], "depth": depth}}
        tree["optim"] = {**tree["optim"], "learning_rate": rate / (number + 1)}
        own = parse_config({**tree, "name": f"trial-{number}"})
        with _Clock() as clock:
            place = Place(0, 1, lambda value: value, lambda: None)
            output = Output(RunFolder.of(own), None)
            run_session(
                own, dataset, place, lambda state: False, tf.distribute.get_strategy(), output=output, workshop=workshop
            )
            workshop.tidy()
        sessions.append(clock.figures)
    return {"sessions": sessions, "suffix": _suffix(config, dataset)}


def bound(settings: dict[str, Any]) -> dict[str, Any]:
    """A share of the least that a sweep must compute: one pass of the prefix, the suffix of one trial a depth."""
    config, _ = _prepare(settings)
    from rayft.config import parse_config
    from rayft.data.dataset import open_dataset, without_test
    from rayft.model.freeze import resolve_depth
    from rayft.model.network import build_network
    from rayft.prefix.boundary import describe_boundary
    from rayft.prefix.build import Builder, Work
    from rayft.prefix.recipe import BATCH_ROWS
    from rayft.prefix.store import CacheFolder, Entry

    rank, count = settings["share"]
    dataset = without_test(open_dataset(config))
    network = build_network(config, len(dataset.labels))
    folder, work = CacheFolder.of(config.storage), []
    for depth in settings["depths"]:
        boundary = describe_boundary(config, dataset, network, resolve_depth(depth, network.blocks))
        work.append(Work(boundary.tensor, boundary.parts[0], Entry(folder, boundary.parts[0].recipe)))
    builder = Builder(config, dataset, network)
    compute = builder.compute(work)
    numbers = range(rank, -(-len(dataset.examples) // BATCH_ROWS), count)
    compute(next(iter(builder.pictures(work[0].part, [0])))["image"])
    with _Clock() as clock:
        for batch in builder.pictures(work[0].part, numbers):
            compute(batch["image"])
    suffixes = []
    for depth in settings["depths"]:
        tree = {**settings["config"], "freeze": {**settings["config"]["freeze"], "depth": depth}}
        suffixes.append(_suffix(parse_config(tree), dataset))
    return {"prefix": clock.figures, "suffixes": suffixes}


def _suffix(config: Any, dataset: Any) -> dict[str, Any]:
    """Time all steps and validations behind the boundary on one batch of noise."""
    import tensorflow as tf

    from rayft.data.order import steps_per_epoch
    from rayft.learn.loop import compile_steps
    from rayft.learn.step import Task
    from rayft.model.network import build_network

    network = build_network(config, len(dataset.labels))
    steps = steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
    task = Task(config, network, total_steps=steps * config.train.epochs, cached=True)
    b = config.data.global_batch_size
    batch = {
        "features": tf.random.normal([b, *network.boundary.shape[1:]], dtype=network.boundary.dtype),
        "label": tf.zeros([b], tf.int32),
        "weight": tf.ones([b]),
        "count": tf.constant(float(b)),
        "position": tf.range(b),
        "step": tf.constant(0, tf.int64),
    }
    run_steps = compile_steps(task)
    iterator = iter(tf.data.Dataset.from_tensors(batch).repeat())
    answer = tf.function(task.logits)
    answer(batch)
    run_steps(iterator, tf.constant(1), tf.zeros([2], tf.float64))
    with _Clock() as clock:
        for _ in range(config.train.epochs):
            run_steps(iterator, tf.constant(steps), tf.zeros([2], tf.float64))[0].numpy()
            for _ in range(-(-dataset.size("validation") // b)):
                answer(batch).numpy()
    return clock.figures


def read_large(settings: dict[str, Any]) -> dict[str, Any]:
    """Read a cache of ``bytes`` whole, in random batches; returns what it added to this process's own memory."""
    import numpy as np

    from rayft.prefix.recipe import BATCH_ROWS, Recipe, digest_rows, shard_rows
    from rayft.prefix.shards import ShardWriter
    from rayft.prefix.store import CacheFolder, Entry

    shape = (14, 14, 80)
    rows = np.arange(settings["bytes"] // (14 * 14 * 80 * 4))
    recipe = Recipe("w", "cut", {}, shape, "float32", "d", digest_rows(rows), len(rows), None, "float32", "tensorflow")
    entry = Entry(CacheFolder.of(settings["folder"]), recipe)
    entry.lease()
    values, size = np.random.default_rng(0).normal(size=(BATCH_ROWS, *shape)).astype("float32"), shard_rows(len(rows))
    before_writing, sampler = _own_memory(), _Sampler()
    with sampler:
        for number in range(recipe.num_shards):
            writer = ShardWriter(entry.local, recipe, number)
            for start in range(number * size, min((number + 1) * size, len(rows)), BATCH_ROWS):
                own = rows[start : start + BATCH_ROWS]
                writer.add(own, values[: len(own)] + number)
            entry.publish(writer.finish())
        entry.commit()
    before_reading = _own_memory()
    reading = _Sampler()
    with reading:
        opened = entry.open(rows, entry.check(print))
        order = np.random.default_rng(1).permutation(len(rows))
        for start in range(0, len(rows), BATCH_ROWS):
            opened.take(rows[order[start : start + BATCH_ROWS]])
    return {
        "cache_bytes": recipe.num_bytes,
        "reading_adds": reading.peak - before_reading,
        "writing_adds": sampler.peak - before_writing,
    }


def build_memory(settings: dict[str, Any]) -> dict[str, Any]:
    """Build the cache of ``times`` copies of the pictures; returns the peak of this process's own memory."""
    config, _ = _prepare(settings)
    from dataclasses import replace

    import numpy as np
    import pyarrow as pa

    from rayft.data.dataset import open_dataset
    from rayft.prefix.ensure import ensure_cache

    dataset = open_dataset(config)
    count, times = len(dataset.examples), settings["times"]

    class Repeated:
        """The same pictures under more row ids."""

        def read(self, rows: np.ndarray) -> list[bytes]:
            return dataset.reader.read(rows % count)

    copies = [
        dataset.examples.set_column(0, "row", pa.array(np.arange(count) + number * count)) for number in range(times)
    ]
    many = replace(dataset, examples=pa.concat_tables(copies), reader=Repeated())
    sampler = _Sampler()
    with sampler, _Clock() as clock:
        (ensured,) = ensure_cache(config, many)
    return {**clock.figures, "examples": count * times, "cache_bytes": ensured.bytes, "own_peak_bytes": sampler.peak}


def _prepare(settings: dict[str, Any]) -> tuple[Any, Any]:
    """Set up TensorFlow as a worker of rayft does, on both sides."""
    from rayft.config import parse_config
    from rayft.distributed.devices import plan_devices

    config = parse_config(settings["config"])
    devices = plan_devices(config.cluster)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(devices.intra_op_threads)
    tf.config.threading.set_inter_op_parallelism_threads(devices.inter_op_threads)
    return config, tf


class _Clock:
    """Wall and CPU seconds of a block; the latter do not grow when other programs run."""

    def __enter__(self) -> _Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.figures = {"seconds": time.perf_counter() - self._wall, "cpu_s": time.process_time() - self._cpu}


class _Sampler:
    """The largest own memory (anonymous pages; mapped files belong to the page cache) during a block."""

    def __enter__(self) -> _Sampler:
        self.peak, self._stop = _own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self.peak = max(self.peak, _own_memory())


def _own_memory() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


WORK = {
    "cached": train_cached,
    "fit": train_fit,
    "forward": forward,
    "trial": trial,
    "bound": bound,
    "read_large": read_large,
    "build_memory": build_memory,
}


if __name__ == "__main__":
    main()
