"""Whether a cache pays, from a measured probe."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.errors import ConfigError, StorageError
from rayft.prefix.boundary import Boundary
from rayft.prefix.build import Builder, Work
from rayft.prefix.engine import TENSORFLOW
from rayft.prefix.recipe import BATCH_ROWS
from rayft.prefix.store import CacheFolder, Entry

# Files hold a little more than the numbers.
_FILE_OVERHEAD = 1.02
_PROBE_ROUNDS = 3
# Batches that the pipeline may hold ready, or in work, while nobody asks for them.
_PREFETCHED = 4
_PROBE_BYTES = 64_000_000


@dataclass(frozen=True)
class Decision:
    """Whether the cache is used, and why; a clause that a person can read."""

    used: bool
    reason: str


@dataclass(frozen=True)
class Probe:
    """Seconds a picture, measured on this machine.

    Attributes:
        decode_s: From encoded bytes to pixels.
        prefix_s: From pixels to the boundary.
        read_s: From the cache to memory.
        write_s: From memory to the cache.
    """

    decode_s: float
    prefix_s: float
    read_s: float
    write_s: float


def decide(
    config: RunConfig,
    dataset: Dataset,
    boundary: Boundary,
    folder: CacheFolder,
    builder: Builder | None,
    passes: float,
) -> Decision:
    """Choose between a cache and the prefix in every step.

    The time of the suffix is the same on both sides, so it need not be known.

    Args:
        config: The run.
        dataset: Its examples.
        boundary: Where the prefix ends, and what its cache would hold.
        folder: Where the cache would lie.
        builder: For the probe; None decides without one, and then for the cache wherever it is possible.
        passes: Times that a training example will be read.

    Raises:
        ConfigError: ``prefix_cache.mode`` is on, and there can be no cache.
        StorageError: ``prefix_cache.mode`` is on, and the disk has no room.
    """
    mode = config.prefix_cache.mode
    if mode == "off":
        return Decision(False, "prefix_cache.mode is off")
    if boundary.obstacle:
        if mode == "on":
            raise ConfigError(
                f"prefix_cache.mode is on, but {boundary.obstacle}.", "Change that, or set prefix_cache to auto or off."
            )
        return Decision(False, boundary.obstacle)
    if all(Entry(folder, part.recipe).committed() for part in boundary.parts):
        return Decision(True, f"the activations are there already, {show_size(boundary.num_bytes)}")
    if boundary.num_bytes > config.prefix_cache.max_bytes:
        too_large = f"the activations take {boundary.num_bytes} bytes, prefix_cache.max_bytes is " + str(
            config.prefix_cache.max_bytes
        )
        if mode == "on":
            raise ConfigError(f"prefix_cache.mode is on, but {too_large}.", "Raise it, or freeze more blocks.")
        return Decision(False, too_large)
    if no_room := _no_room(folder, boundary.num_bytes):
        if mode == "on":
            raise StorageError(
                f"prefix_cache.mode is on, but {no_room}.", "Free some space, choose another storage, or set it to off."
            )
        return Decision(False, no_room)
    if mode == "on":
        return Decision(True, f"prefix_cache.mode is on; {show_size(boundary.num_bytes)}")
    if builder is None:
        return Decision(True, f"many runs share it; {show_size(boundary.num_bytes)}")
    return _weigh(dataset, boundary, folder, builder, passes)


def _weigh(dataset: Dataset, boundary: Boundary, folder: CacheFolder, builder: Builder, passes: float) -> Decision:
    reads = passes * (dataset.size("train") + dataset.size("validation")) + dataset.size("test")
    computed = sum(len(part.rows) for part in boundary.parts)
    if reads <= computed:
        return Decision(False, f"a cache would compute {computed:,} pictures, the run itself {reads:,.0f}")
    probe = measure(builder, boundary, folder)
    build_s = computed * (probe.decode_s + probe.prefix_s + probe.write_s)

    def saved_s(step_s: float) -> float:
        return reads * (probe.decode_s + step_s - probe.read_s) - build_s

    # A step computes the prefix by TensorFlow, which takes longer, if anything: that is asked where it decides.
    step_s = probe.prefix_s
    if saved_s(step_s) <= 0 and not boundary.parts[0].recipe.engine.startswith(TENSORFLOW):
        step_s = measure(builder, boundary, folder, engine=TENSORFLOW).prefix_s
    saved = saved_s(step_s)
    said = (
        f"a picture takes {1e3 * probe.decode_s:.2f} ms to decode and {1e3 * step_s:.2f} ms in the prefix, "
        f"{1e3 * probe.read_s:.3f} ms to read back; over {reads:,.0f} readings a cache of "
        f"{show_size(boundary.num_bytes)} {'saves' if saved > 0 else 'costs'} about {abs(saved):.0f} s, "
        f"its {build_s:.0f} s of building counted"
    )
    return Decision(saved > 0, said)


def measure(builder: Builder, boundary: Boundary, folder: CacheFolder, *, engine: str | None = None) -> Probe:
    """Time decoding, prefix, and the writing and reading of activations, on a few real pictures.

    Args:
        builder: Of the network.
        boundary: Where the prefix ends.
        folder: Where the cache would lie.
        engine: Computes the prefix; that of the cache if not given.
    """
    part = boundary.parts[0]
    compute = builder.compute([Work(boundary.tensor, part, Entry(folder, part.recipe))], engine)
    numbers = [k % -(-len(part.rows) // BATCH_ROWS) for k in range(1 + _PREFETCHED + _PROBE_ROUNDS)]
    batches = iter(builder.pictures(part, numbers))
    image = next(batches)["image"]
    compute(image)
    # What was prefetched while the prefix was compiled does not count.
    for _ in range(_PREFETCHED):
        next(batches)
    started = time.perf_counter()
    for _ in range(_PROBE_ROUNDS):
        image = next(batches)["image"]
    decode_s = (time.perf_counter() - started) / (_PROBE_ROUNDS * BATCH_ROWS)
    started = time.perf_counter()
    for _ in range(_PROBE_ROUNDS):
        (activations,) = compute(image)
        content = activations.tobytes()
    prefix_s = (time.perf_counter() - started) / (_PROBE_ROUNDS * BATCH_ROWS)
    write_s, copy_s = _measure_disk(folder.local, content)
    cold = boundary.num_bytes > _available_memory() / 2
    row_bytes = part.recipe.row_bytes
    return Probe(decode_s, prefix_s, row_bytes * (write_s if cold else copy_s), row_bytes * write_s)


def _measure_disk(folder: Path, content: bytes) -> tuple[float, float]:
    """Return seconds a byte: written through to the disk, and read from the page cache."""
    content = content * max(1, min(_PROBE_BYTES // len(content), 256))
    content = content[:_PROBE_BYTES]
    path = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter()
        path.read_bytes()
        read = time.perf_counter()
    except OSError as error:
        raise StorageError(
            f"Cannot write the prefix cache in {folder}: {error.strerror}.",
            "Free some space, choose another storage, or train without it: --set prefix_cache=off.",
        ) from None
    finally:
        path.unlink(missing_ok=True)
    return (written - started) / len(content), (read - written) / len(content)


def _no_room(folder: CacheFolder, num_bytes: int) -> str:
    place = folder.local
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if num_bytes * _FILE_OVERHEAD <= free:
        return ""
    return f"the activations take {show_size(num_bytes)}, the disk of {folder.local} has {show_size(free)} left"


def _available_memory() -> float:
    """Bytes that the page cache may take; all of them where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return float("inf")
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), float("inf"))


def show_size(num_bytes: float) -> str:
    """Return a size for a person."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
