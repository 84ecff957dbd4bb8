"""Settings of the random changes of training pictures."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rayft.config.section import Name, Section

Part = Annotated[float, Field(gt=0, le=1)]
Aspect = Annotated[float, Field(ge=0.05, le=20)]


class RandomResizedCropConfig(Section):
    """A random part of the picture, stretched to the input size."""

    scale: tuple[Part, Part] = Field((0.08, 1.0), description="Smallest and largest part of the picture's area.")
    ratio: tuple[Aspect, Aspect] = Field((0.75, 1.3333), description="Smallest and largest width / height.")

    @model_validator(mode="after")
    def _ranges_rise(self) -> RandomResizedCropConfig:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} is [{low}, {high}]; the first must not exceed the second")
        return self


class AugMixConfig(Section):
    """Chains of operations, averaged with each other and with the picture."""

    severity: float = Field(3.0, gt=0, le=10, description="Largest strength of an operation; 10 is the widest.")
    width: int = Field(3, ge=1, le=8, description="Chains.")
    depth: int = Field(0, ge=0, le=8, description="Operations of a chain; 0 draws 1 to 3.")
    alpha: float = Field(1.0, ge=0.05, le=100, description="Of the Dirichlet and Beta distributions of the weights.")


class LayerConfig(Section):
    """A Keras preprocessing layer, or a function of one's own."""

    name: Name = Field(description="A layer of keras.layers, such as RandomZoom, or module:function.")
    config: dict[str, int | float | bool | str | tuple[float, ...] | None] = Field(
        default_factory=dict, description="Its arguments."
    )


class AugmentConfig(Section):
    """Random changes of training pictures; each draw depends on seed, epoch and example alone."""

    horizontal_flip: bool = Field(False, description="Mirror left and right, one time in two.")
    vertical_flip: bool = Field(False, description="Mirror top and bottom, one time in two.")
    random_resized_crop: RandomResizedCropConfig | None = Field(
        None, description="Area and aspect of a random crop; {} takes the usual ranges."
    )
    crop: float = Field(0.0, ge=0, lt=1, description="Largest part of each side that a crop may cut away.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation, degrees, both ways.")
    brightness: float = Field(0.0, ge=0, le=1, description="Largest shift, as a part of the full range.")
    contrast: float = Field(0.0, ge=0, lt=1, description="Largest relative change of contrast.")
    saturation: float = Field(0.0, ge=0, lt=1, description="Largest relative change of saturation.")
    hue: float = Field(0.0, ge=0, le=0.5, description="Largest rotation of hue, in turns.")
    policy: Literal["none", "randaugment"] = Field("none", description="Operations drawn for each picture.")
    magnitude: float = Field(9.0, ge=0, le=10, description="Strength of the policy's operations; 10 is the widest.")
    num_ops: int = Field(2, ge=1, le=8, description="Operations that the policy draws for a picture.")
    augmix: AugMixConfig | None = Field(None, description="Mixed chains of operations; {} takes the usual ones.")
    layers: tuple[LayerConfig, ...] = Field((), description="Keras preprocessing layers or own functions, in order.")
    random_erasing: float = Field(0.0, ge=0, le=1, description="Probability that noise covers a random rectangle.")
    mixup: float = Field(0.0, ge=0, le=100, description="Alpha of MixUp; 0 switches it off.")
    cutmix: float = Field(0.0, ge=0, le=100, description="Alpha of CutMix; 0 switches it off.")
    mix_probability: float = Field(1.0, gt=0, le=1, description="Part of the pictures that are mixed.")
    switch_probability: float = Field(0.5, gt=0, lt=1, description="Part of CutMix where MixUp is on as well.")

    @property
    def mixes(self) -> bool:
        """Whether pictures are mixed with others, which makes targets soft."""
        return bool(self.mixup or self.cutmix)

    def for_views(self) -> AugmentConfig:
        """Return it without what hides or mixes content, for pictures that are to be answered."""
        left_out = ("random_erasing", "mixup", "cutmix", "mix_probability", "switch_probability")
        return self.model_copy(update={name: type(self).model_fields[name].default for name in left_out})

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> AugmentConfig:
        # A resolved config names every field, so values other than the default are what counts.
        unused = {
            "magnitude": self.policy == "none" and "policy is none",
            "num_ops": self.policy == "none" and "policy is none",
            "mix_probability": not self.mixes and "neither mixup nor cutmix is on",
            "switch_probability": not (self.mixup and self.cutmix) and "mixup and cutmix are not both on",
        }
        for name, reason in unused.items():
            value = getattr(self, name)
            if reason and value != type(self).model_fields[name].default:
                raise ValueError(f"{name} is {value}, but {reason}")
        if self.crop and self.random_resized_crop is not None:
            raise ValueError(f"crop is {self.crop} with random_resized_crop; use one of the two")
        for name in ("mixup", "cutmix"):
            if 0 < getattr(self, name) < 0.01:
                raise ValueError(f"{name} is {getattr(self, name)}; 0, or 0.01 to 100 is allowed")
        return self
