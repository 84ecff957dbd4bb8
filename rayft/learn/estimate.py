"""What a run will take, from what a probe measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayft.config import RunConfig, is_auto
from rayft.data.order import replica_batch_size, steps_per_epoch
from rayft.learn.probe import Probe
from rayft.learn.range_test import MOST_STEPS
from rayft.model.phases import Phase
from rayft.prefix.decide import show_size
from rayft.screen import format_duration

# Ray, worker processes and their imports, then their end; stated, since a probe starts none of them.
START_AND_END_S = 25.0
# A worker's allocator keeps some memory that it does not use; chosen, not measured.
MEMORY_MARGIN = 1.25
# The best checkpoint is kept besides the latest ones, and one is being written.
CHECKPOINTS_BESIDES = 2


@dataclass(frozen=True)
class Estimate:
    """Seconds and bytes of a whole run.

    Attributes:
        start_s: Ray and its workers, tracing, and the tests that ``auto`` asks for.
        prefix_s: Building the prefix cache.
        step_s: One step, the mean over the run.
        epoch_s: Steps and validation of one epoch, the mean over the run.
        training_s: All epochs.
        final_s: The last evaluation of validation and test.
        total_s: The whole run.
        checkpoint_bytes: One checkpoint.
        disk_bytes: What the run will have on its storage at most, without what is there already.
        worker_bytes: Memory of one worker, with a margin.
        exchanged_bytes: Gradients that workers sum up in every step; 0 with one worker.
    """

    start_s: float
    prefix_s: float
    step_s: float
    epoch_s: float
    training_s: float
    final_s: float
    total_s: float
    checkpoint_bytes: int
    disk_bytes: int
    worker_bytes: int
    exchanged_bytes: int

    def in_words(self) -> str:
        """Return the estimate for a person."""
        parts = {
            "start and end": self.start_s,
            "building the prefix cache": self.prefix_s,
            "training and validation": self.training_s,
            "final evaluation": self.final_s,
        }
        shares = ", ".join(f"{_show(value)} {name}" for name, value in parts.items() if value)
        lines = [
            f"The whole run takes about {_show(self.total_s)}: {shares}.",
            f"An epoch takes about {_show(self.epoch_s)}, a step {1e3 * self.step_s:.1f} ms; measured in one "
            f"process here, but for {START_AND_END_S:.0f} s that Ray and its processes take on an idle machine.",
            f"A checkpoint takes {show_size(self.checkpoint_bytes)}, the run {show_size(self.disk_bytes)} on its "
            f"storage; a worker needs about {show_size(self.worker_bytes)} of memory.",
        ]
        if self.exchanged_bytes:
            lines.append(
                f"The workers exchange {show_size(self.exchanged_bytes)} in every step, which takes time that is not "
                "in these figures."
            )
        return "\n".join(lines)


def estimate_run(
    config: RunConfig,
    probe: Probe,
    phases: Sequence[Phase],
    sizes: dict[str, int],
    *,
    prefix_s: float = 0.0,
    prefix_bytes: int = 0,
) -> Estimate:
    """Multiply what was measured by how often the run does it.

    Early stopping is not foreseen, nor is the exchange of gradients between workers.

    Args:
        config: The run; only its learning rate may be ``auto``.
        probe: Of one worker.
        phases: Of the network.
        sizes: Examples of train, validation and test.
        prefix_s: Seconds to build the prefix cache.
        prefix_bytes: What the prefix cache still lacks.
    """
    epochs, batch = config.train.epochs, config.data.global_batch_size
    per_epoch = steps_per_epoch(sizes["train"], batch)
    ends = [*(phase.first_epoch for phase in phases[1:]), epochs]
    stepping_s = sum(
        (end - phase.first_epoch) * per_epoch * probe.step_s_at(phase.depth)
        for phase, end in zip(phases, ends, strict=True)
    )
    validation_s, test_s = (
        evaluation_batches_of_a_worker(config, sizes[split]) * probe.evaluation_s for split in ("validation", "test")
    )
    training_s = stepping_s + epochs * validation_s
    start_s = START_AND_END_S + probe.start_s
    if is_auto(config.optim.learning_rate):
        start_s += min(MOST_STEPS, epochs * per_epoch) * probe.step_s_at(phases[-1].depth)
    final_s = validation_s + test_s
    return Estimate(
        start_s,
        prefix_s,
        stepping_s / (epochs * per_epoch),
        training_s / epochs,
        training_s,
        final_s,
        start_s + prefix_s + training_s + final_s,
        probe.checkpoint_bytes,
        needed_disk(config, probe, prefix_bytes),
        int(probe.peak_bytes * MEMORY_MARGIN),
        probe.gradient_bytes if config.cluster.workers > 1 else 0,
    )


def evaluation_batches_of_a_worker(config: RunConfig, examples: int) -> int:
    """Return the batches that each worker answers in one evaluation of a split."""
    workers = config.cluster.workers
    part = -(-config.data.global_batch_size // config.train.accumulate_steps)
    share = -(-examples // workers)
    return -(-share // replica_batch_size(part, workers))


def needed_disk(config: RunConfig, probe: Probe, prefix_bytes: int) -> int:
    """Return the bytes that a run will have written: checkpoints, package, prefix cache.

    Args:
        config: The run.
        probe: Gives the size of a checkpoint and of the network.
        prefix_bytes: What the prefix cache still lacks.
    """
    checkpoints = config.train.keep_checkpoints + CHECKPOINTS_BESIDES
    return probe.checkpoint_bytes * checkpoints + probe.weight_bytes + prefix_bytes


def _show(seconds: float) -> str:
    return format_duration(seconds) if seconds >= 10 else f"{seconds:.1f} s"
