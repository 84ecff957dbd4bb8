"""Settings of the network: backbone, head, and how much of it stays fixed."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rayft.config.section import Name, Section, Width


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


class FreezeConfig(Section):
    """How much of the pretrained backbone stays fixed."""

    depth: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] | Name = Field(
        "all", description="Blocks frozen from the input side: a number, a fraction, a block's name, or all."
    )
    batch_norm: Literal["auto", "frozen", "trainable"] = Field(
        "auto",
        description="BatchNorm in unfrozen blocks; auto: frozen when pretrained, trainable from random weights.",
    )
