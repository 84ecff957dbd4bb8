"""The largest batch that fits: what ``data.global_batch_size: auto`` stands for."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from rayft.config import BLOCKS_RATE, RunConfig
from rayft.errors import RunFailed
from rayft.learn.step import Task
from rayft.model.network import build_network

# Part of the memory that a batch may take: fragmentation, prefetched pictures and evaluation need the rest.
SAFETY = 0.6
# An epoch of fewer steps gives a schedule nothing to work with.
FEWEST_STEPS_PER_EPOCH = 10
LARGEST = 65536
# Smaller growth drowns in what the allocator and the compiler take besides.
_CLEAR_GROWTH = 64 * 2**20
_FIRST = 4


def largest_batch(
    config: RunConfig, num_classes: int, *, most: int, memory: int, alive: Callable[[], None] = lambda: None
) -> int:
    """Return the examples that one replica can hold in a step; nothing of the run is touched.

    A throw-away copy of the network takes steps with doubling batches. On a CPU the growth of resident memory
    between two of them gives the bytes of an example, from which the largest batch follows; memory is never
    filled. On a GPU the batches double until one does not fit.

    Args:
        config: The run.
        num_classes: Width of the logits.
        most: Upper bound.
        memory: Bytes that this worker may still take; on a GPU its own allocator knows.
        alive: Called after every batch, for the watchdog.

    Raises:
        RunFailed: Not even one example fits.
    """
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    size, fits, peaks = min(_FIRST, most), 0, {0: peak_memory()}
    while size <= most:
        try:
            _take_steps(config, num_classes, size)
        except tf.errors.ResourceExhaustedError:
            break
        alive()
        fits, peaks[size] = size, peak_memory()
        if not on_gpu and (found := extrapolate(peaks, memory, most)) is not None:
            return _at_least_one(found, memory)
        if size == most:
            return most
        size = min(2 * size, most)
    return _at_least_one(fits, memory)


def extrapolate(peaks: dict[int, int], memory: int, most: int) -> int | None:
    """Return the batch size at which memory is used up, once the growth is clear.

    Args:
        peaks: Peak resident bytes after each batch size tried so far; 0 holds the peak before.
        memory: Bytes that may be taken on top of that.
        most: Upper bound.

    Returns:
        At most ``most``; None while the next size should be tried.
    """
    sizes = sorted(peaks)
    if len(sizes) < 3:
        return None
    small, large = sizes[-2:]
    growth = peaks[large] - peaks[small]
    each = growth / (large - small)
    left = SAFETY * memory - (peaks[large] - peaks[0])
    if left <= 0:
        return small if SAFETY * memory > peaks[small] - peaks[0] else 0
    doubling_fits = each * large <= left
    if growth < _CLEAR_GROWTH and doubling_fits and large < most:
        return None
    return min(most, large + int(left / each)) if each > 0 else most


def choose_batch_size(local: int, num_workers: int, train_size: int) -> int:
    """Return the largest power of two that fits all workers together and leaves an epoch enough steps.

    Args:
        local: Examples that the smallest worker can hold.
        num_workers: Replicas.
        train_size: Training examples.
    """
    bound = min(local * num_workers, upper_bound(train_size), LARGEST)
    size = 1 << (max(bound, 1).bit_length() - 1)
    # Every worker needs an example of its own.
    return max(size, 1 << (num_workers - 1).bit_length())


def upper_bound(train_size: int) -> int:
    """Return the largest batch that leaves an epoch enough steps."""
    return max(1, train_size // FEWEST_STEPS_PER_EPOCH)


def available_memory() -> int:
    """Return the bytes that this machine, or the container it pretends to be, can still give."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if Path(limit).exists() and (text := Path(limit).read_text().strip()).isdigit():
            free = min(free, int(text) - int(Path(used).read_text()))
    return max(free, 0)


def peak_memory() -> int:
    """Return the largest resident memory that this process ever had, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _take_steps(config: RunConfig, num_classes: int, size: int) -> None:
    """Take two steps with random pictures, as one replica of one."""
    tree = config.model_dump()
    tree["data"]["global_batch_size"] = size
    tree["cluster"]["workers"] = 1
    # Any will do, and auto is not settled yet.
    tree["optim"]["learning_rate"] = BLOCKS_RATE
    trial = RunConfig.model_validate(tree)
    network = build_network(trial, num_classes)
    network = network.at(len(network.phases) - 1)
    task = Task(trial, network, total_steps=2)
    step = tf.function(task.run_step)
    shape = (size, *network.image_size, config.data.channels)
    for index in range(2):
        step(
            {
                "image": tf.random.stateless_uniform(shape, [0, index], maxval=255.0),
                "label": tf.zeros([size], tf.int32),
                "weight": tf.ones([size]),
                "position": tf.range(size),
                "count": tf.constant(float(size)),
                "step": tf.constant(index, tf.int64),
            }
        )


def _at_least_one(size: int, memory: int) -> int:
    if size < 1:
        raise RunFailed(
            f"Not even one example fits into the {memory / 2**20:,.0f} MiB that a worker may still take.",
            "Use smaller pictures, a smaller backbone or a larger freeze.depth, or a machine with more memory.",
        )
    return size
