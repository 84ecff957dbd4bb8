"""What a worker tells of its training: figures at each pause of the loop, events at each epoch."""

from __future__ import annotations

from typing import Any

from rayft.learn.loop import Progress
from rayft.observe.sink import Sink

# Figures of the chief's progress, by their metrics.
_OF_RUN = {
    "rayft_train_epochs_done": "done_epochs",
    "rayft_train_epochs_planned": "epochs",
    "rayft_train_steps_done": "step",
    "rayft_train_steps_planned": "steps",
    "rayft_train_loss": "loss",
    "rayft_train_examples_per_second": "examples_per_s",
}


def step_figures(progress: Progress) -> dict[str, float]:
    """Return the mean times of the latest steps by their metrics, in seconds."""
    steps = len(progress.losses)
    return {
        "rayft_train_step_seconds": progress.seconds / steps,
        "rayft_train_input_stall_seconds": progress.input_stall_s / steps,
        "rayft_train_collective_wait_seconds": progress.collective_wait_s / steps,
    }


def tell_of_steps(sink: Sink, progress: Progress) -> None:
    """Tell what the latest call of compiled steps took; of every worker."""
    sink.record("rayft_train_steps_total", len(progress.losses))
    for name, value in step_figures(progress).items():
        sink.record(name, value)


def epoch_fields(state: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return the fields of the event that ends an epoch.

    Args:
        state: The progress that the observer is told.
        progress: The call of steps that ended the epoch.
    """
    times = {name.removeprefix("rayft_train_"): round(value, 6) for name, value in step_figures(progress).items()}
    return {
        "epoch": state["done_epochs"],
        "step": state["step"],
        "loss": state["loss"],
        "metrics": state["metrics"],
        "examples_per_second": round(state["examples_per_s"], 2),
        **times,
    }


def tell_of_run(sink: Sink, state: dict[str, Any], *, workers: int, examples: int) -> None:
    """Tell how far the run is; of the chief alone.

    Args:
        sink: Takes it.
        state: The progress that the observer is told.
        workers: Of the run.
        examples: Of the steps since the last time.
    """
    sink.record("rayft_train_workers", workers)
    sink.record("rayft_train_examples_total", examples)
    for name, key in _OF_RUN.items():
        sink.record(name, state[key])
    if state["left_s"] is not None:
        sink.record("rayft_train_left_seconds", state["left_s"])
    for metric, value in state["metrics"].items():
        sink.record("rayft_train_validation", value, metric=metric)
