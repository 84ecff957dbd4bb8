"""Settings of the labelled examples and of their way to the network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from rayft.config.augment import AugmentConfig
from rayft.config.section import Section, Side

if TYPE_CHECKING:
    # auto is settled before any other code reads the field.
    BatchSize = int
else:
    BatchSize = Annotated[int, Field(ge=1, le=65536)] | Literal["auto"]


class ColumnsConfig(Section):
    """Names of the columns of a table; empty means the usual name."""

    image: str | None = Field(None, description="Encoded pictures (bytes). Usual name: image.")
    path: str | None = Field(None, description="Paths of pictures, relative to the table. Usual name: path.")
    label: str | None = Field(None, description="Class, an integer or a string. Usual name: label.")
    labels: str | None = Field(
        None,
        description="All classes of a picture: a list, or text like a|b or a JSON list. Usual name: labels.",
    )
    label_name: str | None = Field(None, description="Name of an integer class. Usual name: label_name.")
    split: str | None = Field(None, description="train, validation or test. Usual name: split.")
    group: str | None = Field(None, description="Examples of one group never fall into two splits. Usual name: group.")


class DataConfig(Section):
    """Which labelled examples there are, and how they reach the network."""

    source: str = Field(
        min_length=1,
        description="Path or URI of a folder per class, of Parquet, Arrow, CSV, TSV, JSON Lines or TFRecord files, of "
        "a saved Hugging Face dataset, or module:function.",
    )
    columns: ColumnsConfig = Field(ColumnsConfig(), description="Column names, where they are not the usual ones.")
    global_batch_size: BatchSize = Field(
        32, description="Examples per step, over all workers; auto: the largest power of two that fits into memory."
    )
    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="Side in pixels, or [height, width]; empty means the backbone's own."
    )
    channels: Literal[1, 3] = Field(3, description="Colour channels that the network sees.")
    validation_fraction: float = Field(
        0.15, ge=0, lt=1, description="Part of train held out when the data names no validation split."
    )
    test_fraction: float = Field(0.0, ge=0, lt=1, description="Part held out when the data names no test split.")
    split_seed: int = Field(0, ge=0, description="Seed of the held-out parts; apart from the run's own seed.")
    sampling: Literal["uniform", "balanced"] = Field(
        "uniform", description="uniform: each example once an epoch; balanced: each class equally often."
    )
    cache_folder: str | None = Field(
        None, min_length=1, description="Local folder for copies of tables and remote pictures; empty: ~/.cache/rayft."
    )
    cache_bytes: int = Field(
        50_000_000_000, ge=0, description="Bytes that these copies may take; the least recently used leave."
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="Augmentation of training pictures.")
    on_bad: Literal["fail", "skip"] = Field("fail", description="What to do about pictures that cannot be decoded.")
    max_pixels: int = Field(
        50_000_000, ge=1, le=2_000_000_000, description="Pictures with more pixels than this are bad."
    )

    @model_validator(mode="after")
    def _across_fields(self) -> DataConfig:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}, test_fraction is {self.test_fraction}; "
                "their sum must be below 1, to leave something to train on"
            )
        if self.augment.mixes and self.global_batch_size < 2:
            raise ValueError(
                f"global_batch_size is {self.global_batch_size}; mixup and cutmix need at least 2 examples a step"
            )
        return self
