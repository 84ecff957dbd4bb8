"""Settings of the network: backbone, head, and how much of it stays fixed."""

from __future__ import annotations

import itertools
import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rayft.config.section import Name, Section, Width

Depth = Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] | Name
BatchNormMode = Literal["auto", "frozen", "trainable"]


class AdapterConfig(Section):
    """Few new or chosen weights that are trained in place of the backbone's."""

    kind: Literal["lora", "bias"] = Field(
        description="lora: low-rank additions to kernels (arXiv:2106.09685); bias: biases alone (arXiv:2106.10199)."
    )
    rank: int | None = Field(None, ge=1, le=4096, description="Rank of each addition; lora alone, 8 if not given.")
    alpha: float | None = Field(
        None, gt=0, le=10_000, description="Additions are scaled by alpha / rank; lora alone, 16 if not given."
    )
    layers: str = Field(".*", min_length=1, description="Regular expression found in the names of the layers meant.")
    norm: bool = Field(False, description="Train scale and shift of the backbone's normalisation layers as well.")

    @model_validator(mode="before")
    @classmethod
    def _lora_sizes(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("kind") == "lora":
            sizes = {name: size for name, size in (("rank", 8), ("alpha", 16.0)) if tree.get(name) is None}
            return {**tree, **sizes}
        return tree

    @model_validator(mode="after")
    def _fits_its_kind(self) -> AdapterConfig:
        if self.kind == "bias" and (self.rank is not None or self.alpha is not None):
            raise ValueError(f"rank is {self.rank}, alpha is {self.alpha}; kind bias has neither, leave them out")
        try:
            re.compile(self.layers)
        except re.error as error:
            raise ValueError(f"layers is {self.layers!r}, which is no regular expression: {error}") from None
        return self


class ModelConfig(Section):
    """The pretrained backbone and the task layers on top of it."""

    backbone: str = Field(
        "efficientnet_lite0",
        min_length=1,
        description="efficientnet_lite0, a keras.applications name, a path to a .keras file, or none.",
    )
    weights: str = Field("imagenet", min_length=1, description="imagenet, none, or a path to a weights file.")
    pooling: Literal["avg", "max", "flatten"] = Field("avg", description="How feature maps become a vector.")
    hidden: tuple[Width, ...] = Field((), description="Widths of the dense layers between pooling and logits.")
    activation: str = Field("relu", description="Keras activation of the hidden layers.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout in front of the logits.")
    adapter: AdapterConfig | None = Field(
        None, description="Train small additions or biases in the unfrozen blocks, in place of all their weights."
    )


class PhaseConfig(Section):
    """A part of the run with a freeze depth of its own."""

    epoch: int = Field(ge=0, le=100_000, description="Epochs done before it begins; 0 for the first phase.")
    depth: Depth = Field(description="As freeze.depth; never deeper than in the phase before.")
    batch_norm: BatchNormMode | None = Field(None, description="As freeze.batch_norm, which holds if not given.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Factor on optim.learning_rate; not given: 10 where the head trains alone before blocks do, "
        "else 1.",
    )


class FreezeConfig(Section):
    """How much of the pretrained backbone stays fixed, and for how long."""

    depth: Depth = Field(
        "all",
        description="Blocks frozen from the input side: a number, a fraction, a block's name, or all; with phases, "
        "of the last one.",
    )
    batch_norm: BatchNormMode = Field(
        "auto",
        description="BatchNorm in unfrozen blocks; auto: frozen when pretrained, trainable from random weights.",
    )
    head_first_epochs: int = Field(
        0, ge=0, le=100_000, description="Epochs that train the head alone before blocks are unfrozen."
    )
    gradual: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Unfreeze a block every so many epochs, from the head down to depth; 0: at once.",
    )
    schedule: tuple[PhaseConfig, ...] = Field((), description="Phases written out, in place of the two above.")

    @model_validator(mode="before")
    @classmethod
    def _depth_of_the_last_phase(cls, tree: Any) -> Any:
        """Fill it in, so that the resolved config shows it."""
        if isinstance(tree, dict) and "depth" not in tree and (depth := last_depth(tree)) is not None:
            return {**tree, "depth": depth}
        return tree

    @model_validator(mode="after")
    def _phases_make_sense(self) -> FreezeConfig:
        if self.schedule:
            self._check_schedule()
        if (self.head_first_epochs or self.gradual) and is_head_only(self.depth):
            raise ValueError(
                f"head_first_epochs is {self.head_first_epochs}, gradual is {self.gradual}, depth is {self.depth}; "
                "they need a depth at which unfreezing ends, such as 0"
            )
        return self

    def _check_schedule(self) -> None:
        epochs = [phase.epoch for phase in self.schedule]
        if self.head_first_epochs or self.gradual:
            raise ValueError(
                f"schedule is given, head_first_epochs is {self.head_first_epochs}, gradual is {self.gradual}; "
                "give the schedule or the shorthands"
            )
        if epochs[0] != 0 or any(late <= early for early, late in itertools.pairwise(epochs)):
            raise ValueError(f"schedule has the epochs {epochs}; they begin with 0 and rise")
        if self.schedule[-1].depth != self.depth:
            raise ValueError(
                f"depth is {self.depth!r}, the schedule ends with {self.schedule[-1].depth!r}; leave out depth"
            )


def last_depth(freeze: dict[str, Any]) -> Any:
    """Return the depth of the last phase of a raw ``freeze`` section; None without a readable schedule."""
    schedule = freeze.get("schedule")
    last = schedule[-1] if isinstance(schedule, (list, tuple)) and schedule else None
    return last.get("depth") if isinstance(last, dict) else getattr(last, "depth", None)


def is_head_only(depth: Any) -> bool:
    """Whether a freeze depth is the whole backbone, whichever that is."""
    return depth == "all" or (isinstance(depth, float) and depth == 1.0)
