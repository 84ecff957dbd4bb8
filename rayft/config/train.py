"""Settings of the training: optimizer, loss, loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from rayft.config.section import ClassWeight, ImportPath, Section

# A rate that suits a new head would undo what pretrained blocks know.
HEAD_RATE = 3e-3
BLOCKS_RATE = 3e-4
# Of the metrics; every other one is better when larger.
LOWER_IS_BETTER = ("log_loss", "ece")
ADAPTER_RATE = 1e-3
# A trace grows with each step, and a browser has to show it.
MOST_TRACED_STEPS = 1000


if TYPE_CHECKING:
    # auto is settled before any other code reads the field.
    Rate = float
else:
    Rate = Annotated[float, Field(gt=0, le=1000)] | Literal["auto"]


class DistillConfig(Section):
    """A trained network whose answers are a part of the loss (arXiv:1503.02531)."""

    teacher: str = Field(min_length=1, description="Folder of a package or of a finished run, or a .keras file.")
    temperature: float = Field(2.0, gt=0, le=1000, description="Divides the logits of both; larger is softer.")
    weight: float = Field(0.5, gt=0, le=1, description="Part of the loss that the teacher gives; labels give the rest.")


# Which settings shape which schedule.
SCHEDULE_OPTIONS = {
    "constant": (),
    "cosine": (),
    "linear": (),
    "step": ("gamma", "milestones"),
    "exponential": ("gamma",),
    "one_cycle": ("rise_fraction", "div_factor", "final_div_factor"),
    "cosine_restarts": ("cycles", "cycle_growth"),
    "plateau": ("gamma", "patience", "min_delta", "min_fraction"),
}


class ScheduleConfig(Section):
    """Shape of the schedule; each setting belongs to the schedules that its description names."""

    gamma: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="step, plateau: factor of each drop; exponential: part of the peak left at the end.",
    )
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.5, 0.75), min_length=1, description="step: parts of the steps after warm-up, past which the rate drops."
    )
    rise_fraction: float = Field(0.3, gt=0, lt=1, description="one_cycle: part with a rising rate.")
    div_factor: float = Field(25.0, ge=1, description="one_cycle: peak over initial rate.")
    final_div_factor: float = Field(1e4, ge=1, description="one_cycle: initial rate over final rate.")
    cycles: int = Field(3, ge=1, le=1000, description="cosine_restarts: number of cosines.")
    cycle_growth: float = Field(
        2.0, ge=1, le=10, description="cosine_restarts: length of a cosine over the one before."
    )
    patience: int = Field(2, ge=1, description="plateau: epochs without improvement before the rate drops.")
    min_delta: float = Field(0.0, ge=0, description="plateau: an improvement is larger than this.")
    min_fraction: float = Field(
        1e-3, gt=0, lt=1, description="plateau: the rate never drops below this part of the peak."
    )


class SamConfig(Section):
    """Sharpness-aware minimisation (Foret et al. 2021, arXiv:2010.01412)."""

    rho: float = Field(
        0.0, ge=0, le=100, description="Length of the step uphill before the gradient is taken; 0 is off, 0.05 usual."
    )


class OptimConfig(Section):
    """How gradients become updates."""

    name: str = Field("adam", min_length=1, description="A Keras optimizer's name, or module:function.")
    learning_rate: Rate = Field(
        HEAD_RATE,
        description="Peak learning rate, or auto for a range test; not given: 0.003 where the head trains alone, "
        "0.001 for adapters, 0.0003 where blocks train too.",
    )
    schedule: Literal[
        "constant", "cosine", "linear", "step", "exponential", "one_cycle", "cosine_restarts", "plateau"
    ] = Field("cosine", description="Course of the rate after warm-up.")
    schedule_options: ScheduleConfig = Field(ScheduleConfig(), description="Shape of the schedule.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Part of all steps with a linearly rising rate.")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="Decoupled decay; spares biases and normalisation.")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest global norm of the gradient, clipped after the sum over workers."
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Factor of the rate for each block further from the head; 1 is off, 0.75 usual."
    )
    head_multiplier: float = Field(1.0, gt=0, le=1000, description="Factor of the head's rate.")
    sam: SamConfig = Field(SamConfig(), description="Sharpness-aware minimisation.")
    options: dict[str, float | bool | str] = Field(
        default_factory=dict, description="More arguments of the optimizer, such as beta_1 or momentum."
    )

    @model_validator(mode="after")
    def _schedule_uses_its_options(self) -> OptimConfig:
        defaults, used = ScheduleConfig(), SCHEDULE_OPTIONS[self.schedule]
        for name in ScheduleConfig.model_fields:
            value = getattr(self.schedule_options, name)
            if name not in used and value != getattr(defaults, name):
                raise ValueError(
                    f"schedule_options.{name} is {value}, which the schedule {self.schedule} does not use; "
                    f"it uses {', '.join(used) or 'none of these options'}"
                )
        return self


class L2SpConfig(Section):
    """Decay towards the pretrained weights (Li et al. 2018, arXiv:1802.01483)."""

    alpha: float = Field(
        0.0, ge=0, le=1000, description="Pull of unfrozen blocks to their pretrained weights; 0 is off."
    )
    beta: float = Field(0.0, ge=0, le=1000, description="Pull of new weights to zero.")


class EmaConfig(Section):
    """Exponential moving average of the weights (Polyak and Juditsky 1992), used wherever the network is judged."""

    decay: float = Field(0.0, ge=0, lt=1, description="Part of the average kept at each step; 0 is off, 0.999 usual.")
    warmup: bool = Field(
        True, description="Keep at most (1 + t) / (10 + t) at step t, so that short runs forget the start."
    )


class SwaConfig(Section):
    """Stochastic weight averaging (Izmailov et al. 2018, arXiv:1803.05407)."""

    start_fraction: float = Field(
        1.0, ge=0, le=1, description="Part of the epochs after which each one's weights are averaged; 1 is off."
    )


class EarlyStoppingConfig(Section):
    """An end of the training before its last epoch."""

    patience: int | None = Field(
        None, ge=1, description="Epochs without improvement of train.metric before the training ends; empty is off."
    )
    min_delta: float = Field(0.0, ge=0, description="An improvement is larger than this.")


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
    distill: DistillConfig | None = Field(None, description="Learn from a teacher as well as from labels.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Probability moved from the label to all classes.")
    step: ImportPath | None = Field(None, description="Own training step, module:function; empty means the built-in.")
    metric: Literal["accuracy", "top5", "macro_f1", "auc", "map", "log_loss", "ece"] = Field(
        "accuracy", description="Validation metric that decides which epoch is best."
    )
    precision: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        "float32", description="Number format of activations; float64 is for proofs of parity."
    )
    accumulate_steps: int = Field(
        1, ge=1, le=1024, description="Parts that each batch is computed in, one after the other, to save memory."
    )
    l2_sp: L2SpConfig = Field(L2SpConfig(), description="Decay towards the pretrained weights.")
    ema: EmaConfig = Field(EmaConfig(), description="Moving average of the weights.")
    swa: SwaConfig = Field(SwaConfig(), description="Stochastic weight averaging.")
    early_stopping: EarlyStoppingConfig = Field(EarlyStoppingConfig(), description="End without improvement.")
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Checkpoint in mid-epoch as well, every so many steps."
    )
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="Latest checkpoints kept; the best is kept besides.")
    log_every_steps: int = Field(10, ge=1, description="Steps per line of metrics.jsonl.")
    profile: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]] | None = Field(
        None,
        description="Trace every worker from after the one step to after the other, counted as in metrics.jsonl, for "
        "TensorBoard (docs/observability.md); at most 1,000 steps.",
    )

    @model_validator(mode="after")
    def _settings_suit_each_other(self) -> TrainConfig:
        if ":" in self.loss and self.label_smoothing:
            raise ValueError(
                f"label_smoothing is {self.label_smoothing} with the own loss {self.loss}; only the built-in losses "
                "smooth labels: set it to 0, and smooth inside the loss"
            )
        if self.ema.decay and self.swa.start_fraction < 1:
            raise ValueError(
                f"ema.decay is {self.ema.decay} and swa.start_fraction is {self.swa.start_fraction}; only one average "
                "can be the one that is kept: set ema.decay to 0 or swa.start_fraction to 1"
            )
        if self.profile is not None and not 0 < self.profile[1] - self.profile[0] <= MOST_TRACED_STEPS:
            raise ValueError(
                f"profile is [{self.profile[0]}, {self.profile[1]}]; the second step comes after the first, at most "
                f"{MOST_TRACED_STEPS:,} steps"
            )
        if self.early_stopping.min_delta and self.early_stopping.patience is None:
            raise ValueError(
                f"early_stopping.min_delta is {self.early_stopping.min_delta} without early_stopping.patience; "
                "set that to a number of epochs"
            )
        return self
