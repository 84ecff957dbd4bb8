"""How long a step takes on N workers: compute, the sum of the gradients over a ring, input.

Plain arithmetic: the constants come from runs (``fit``) or from data sheets, and whoever calls says which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Wire:
    """What the sum of the gradients costs besides its bytes on the wire.

    Attributes:
        hop_s: Of each of the ring's steps, whatever its size.
        copy_s_per_byte: Of handling a byte that is sent, on processors.
    """

    hop_s: float
    copy_s_per_byte: float


@dataclass(frozen=True)
class Run:
    """A measured step.

    Attributes:
        workers: One a host.
        trainable_bytes: Of the gradients that are summed.
        bytes_per_s: Each way, of each host's wire; infinite where nothing limits it.
        step_s: Median.
        compute: Which of the networks ran; those of one name take the same compute.
    """

    workers: int
    trainable_bytes: int
    bytes_per_s: float
    step_s: float
    compute: str


@dataclass(frozen=True)
class Fit:
    """Constants that suit measured steps best.

    Attributes:
        compute_s: Of a step, input included, by the name of the network, on processors of its own.
        wire: Of the hosts.
        cores: That all workers share.
    """

    compute_s: dict[str, float]
    wire: Wire
    cores: int

    def predict(self, workers: int, trainable_bytes: int, bytes_per_s: float, compute: str) -> float:
        """Return the seconds of a step."""
        crowd = crowding(workers, self.cores)
        copying = Wire(self.wire.hop_s, self.wire.copy_s_per_byte * crowd)
        return step_s(self.compute_s[compute] * crowd, trainable_bytes, bytes_per_s, workers, copying)


def ring_factor(workers: int) -> float:
    """Return how many times each worker sends the vector that a ring sums."""
    return 2 * (workers - 1) / workers


def all_reduce_s(trainable_bytes: float, bytes_per_s: float, workers: int, wire: Wire) -> float:
    """Return the seconds in which a ring of workers sums a vector.

    Source: Patarasu and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
    """
    if workers == 1:
        return 0.0
    sent = ring_factor(workers) * trainable_bytes
    return sent / bytes_per_s + sent * wire.copy_s_per_byte + 2 * (workers - 1) * wire.hop_s


def step_s(
    compute_s: float, trainable_bytes: float, bytes_per_s: float, workers: int, wire: Wire, *, input_s: float = 0.0
) -> float:
    """Return the seconds of a step whose parts follow each other.

    Args:
        compute_s: Forward, backward and update of one worker's share.
        trainable_bytes: Of the gradients.
        bytes_per_s: Of each worker's wire, each way.
        workers: In the ring.
        wire: Its other costs.
        input_s: How long the step waits for its batch.
    """
    return compute_s + all_reduce_s(trainable_bytes, bytes_per_s, workers, wire) + input_s


def crowding(workers: int, cores: int) -> float:
    """Return how much slower a worker of one thread computes when all share so many cores."""
    return max(1.0, workers / cores)


def fit(runs: Sequence[Run], cores: int) -> Fit:
    """Return the constants with the least squares of relative errors; none is below zero.

    Args:
        runs: Measured on one machine.
        cores: That all workers share.
    """
    names = sorted({run.compute for run in runs})
    rows, targets = [], []
    for run in runs:
        crowd, sent = crowding(run.workers, cores), ring_factor(run.workers) * run.trainable_bytes
        parts = [crowd * (run.compute == name) for name in names]
        parts += [2.0 * (run.workers - 1), sent * crowd]
        rows.append([part / run.step_s for part in parts])
        targets.append((run.step_s - sent / run.bytes_per_s) / run.step_s)
    *compute_s, hop_s, copy_s_per_byte = _least_squares(np.array(rows), np.array(targets))
    return Fit(dict(zip(names, map(float, compute_s), strict=True)), Wire(float(hop_s), float(copy_s_per_byte)), cores)


def errors(fitted: Fit, runs: Sequence[Run]) -> list[float]:
    """Return how far each prediction is from its run, as a part of that."""
    predicted = [fitted.predict(run.workers, run.trainable_bytes, run.bytes_per_s, run.compute) for run in runs]
    return [guess / run.step_s - 1 for guess, run in zip(predicted, runs, strict=True)]


def errors_unseen(runs: Sequence[Run], cores: int) -> list[float]:
    """Return the errors of runs at each limited bandwidth, predicted from those at all others."""
    found = []
    for bandwidth in sorted({run.bytes_per_s for run in runs if run.workers > 1 and math.isfinite(run.bytes_per_s)}):
        seen = [run for run in runs if run.bytes_per_s != bandwidth]
        found += errors(fit(seen, cores), [run for run in runs if run.bytes_per_s == bandwidth])
    return found


def _least_squares(rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Least squares with no negative unknown: the most negative one is held at zero, until none is."""
    free = list(range(rows.shape[1]))
    scale = np.linalg.norm(rows, axis=0)
    scale[scale == 0] = 1.0
    found = np.zeros(rows.shape[1])
    while free:
        solution = np.linalg.lstsq(rows[:, free] / scale[free], targets, rcond=None)[0] / scale[free]
        if solution.min() >= 0:
            found[free] = solution
            break
        free.pop(int(np.argmin(solution * scale[free])))
    return found


# Blocks of VGG16 (Simonyan and Zisserman 2014, arXiv:1409.1556) for 224 x 224 pictures: side, channels in and out of
# each convolution of 3 x 3.
VGG16 = (
    ((224, 3, 64), (224, 64, 64)),
    ((112, 64, 128), (112, 128, 128)),
    ((56, 128, 256), (56, 256, 256), (56, 256, 256)),
    ((28, 256, 512), (28, 512, 512), (28, 512, 512)),
    ((14, 512, 512), (14, 512, 512), (14, 512, 512)),
)


def block_parameters(block: Sequence[tuple[int, int, int]]) -> int:
    """Return the kernels and biases of a block of convolutions."""
    return sum(9 * inputs * outputs + outputs for _, inputs, outputs in block)


def block_flops(block: Sequence[tuple[int, int, int]]) -> int:
    """Return the floating-point operations of a block's forward pass of one picture; a multiply-add is two."""
    return sum(2 * 9 * inputs * outputs * side * side for side, inputs, outputs in block)


def step_flops(blocks: Sequence[Sequence[tuple[int, int, int]]], depth: int, *, cached: bool) -> int:
    """Return the operations of a training step on one picture with the first ``depth`` blocks frozen.

    A block that trains costs its forward pass three times: once forward, twice backward. A frozen one costs it once,
    and nothing where its activations are cached.
    """
    frozen = 0 if cached else sum(block_flops(block) for block in blocks[:depth])
    return frozen + 3 * sum(block_flops(block) for block in blocks[depth:])


def trainable_bytes(blocks: Sequence[Sequence[tuple[int, int, int]]], depth: int, head: int) -> int:
    """Return the bytes of the gradients: blocks from ``depth`` on, and a head of so many parameters."""
    return FLOAT32_BYTES * (head + sum(block_parameters(block) for block in blocks[depth:]))
