"""Settings of evaluation, which the package keeps for serving."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rayft.config.section import Section


class TtaConfig(Section):
    """Test-time augmentation: probabilities averaged over views of each picture; off by default."""

    flip: bool = Field(False, description="Each view mirrored as well; twice the work.")
    crops: Literal[1, 5] = Field(1, description="1: the whole picture; 5: its corners and its middle.")
    crop_scale: float = Field(0.875, gt=0, lt=1, description="Side of such a crop, as a part of the picture's.")
    views: int = Field(0, ge=0, le=64, description="More views, drawn by data.augment with a fixed seed.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of these views.")

    @property
    def is_on(self) -> bool:
        """Whether there is more than one view."""
        return self.flip or self.crops > 1 or self.views > 0

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> TtaConfig:
        for name, reason in (
            ("crop_scale", self.crops == 1 and "crops is 1"),
            ("seed", not self.views and "views is 0"),
        ):
            value = getattr(self, name)
            if reason and value != type(self).model_fields[name].default:
                raise ValueError(f"{name} is {value}, but {reason}")
        return self


class EvaluateConfig(Section):
    """How validation and test examples, and later the served ones, are answered."""

    tta: TtaConfig = Field(TtaConfig(), description="Test-time augmentation.")
