"""Settings of the training: optimizer, loss, loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rayft.config.section import ClassWeight, ImportPath, Section

# A rate that suits a new head would undo what pretrained blocks know.
HEAD_RATE = 3e-3
BLOCKS_RATE = 3e-4
# Of the metrics; every other one is better when larger.
LOWER_IS_BETTER = ("log_loss", "ece")


class OptimConfig(Section):
    """How gradients become updates."""

    name: str = Field("adam", min_length=1, description="A Keras optimizer's name, or module:function.")
    learning_rate: float = Field(
        HEAD_RATE,
        gt=0,
        le=1000,
        description="Peak learning rate; not given: 0.003 where the head trains alone, 0.0003 where blocks train too.",
    )
    schedule: Literal["constant", "cosine"] = Field("cosine", description="Course of the rate after warm-up.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Part of all steps with a linearly rising rate.")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="Decoupled decay; spares biases and normalisation.")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest global norm of the gradient, clipped after the sum over workers."
    )
    options: dict[str, float | bool | str] = Field(
        default_factory=dict, description="More arguments of the optimizer, such as beta_1 or momentum."
    )


class TrainConfig(Section):
    """How long to train, with what loss, and what is kept."""

    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training split.")
    loss: Literal["auto", "cross_entropy", "focal", "binary_cross_entropy"] | ImportPath = Field(
        "auto",
        description="auto (cross_entropy; binary_cross_entropy where pictures have several labels), one by name, or "
        "module:function (see examples/digits).",
    )
    class_weights: Literal["none", "balanced"] | dict[str, ClassWeight] = Field(
        "none", description="Factors of the loss: none, balanced (rare classes count more), or a mapping of labels."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Probability moved from the label to all classes.")
    step: ImportPath | None = Field(None, description="Own training step, module:function; empty means the built-in.")
    metric: Literal["accuracy", "top5", "macro_f1", "auc", "map", "log_loss", "ece"] = Field(
        "accuracy", description="Validation metric that decides which epoch is best."
    )
    precision: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        "float32", description="Number format of activations; float64 is for proofs of parity."
    )
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Checkpoint in mid-epoch as well, every so many steps."
    )
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="Latest checkpoints kept; the best is kept besides.")
    log_every_steps: int = Field(10, ge=1, description="Steps per line of metrics.jsonl.")
