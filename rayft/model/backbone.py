"""The backbone that a config names."""

from __future__ import annotations

from typing import Any

import keras

from rayft.config import ModelConfig, RunConfig
from rayft.errors import ModelError
from rayft.model import applications, efficientnet_lite
from rayft.model.weights_file import load_model, load_weights, read_input_size

_RANDOM = "none: random weights"


def default_image_size(config: ModelConfig) -> tuple[int, int]:
    """Return the (height, width) that the backbone was made for, without building it.

    Raises:
        ModelError: The backbone is unknown, or has no size of its own.
    """
    if config.backbone == "none":
        raise ModelError("Without a backbone there is no usual picture size.", "Set data.image_size.")
    if config.backbone.endswith(".keras"):
        height, width = read_input_size(config.backbone)
        if height is None or width is None:
            raise ModelError(f"{config.backbone} takes pictures of any size.", "Set data.image_size.")
        return height, width
    lite = _lite_name(config.backbone)
    name = lite or applications.find_application(config.backbone)
    side = efficientnet_lite.VARIANTS[name][2] if lite else applications.APPLICATIONS[name].image_size
    return side, side


def smallest_side(name: str) -> int:
    """Return the smallest side, in pixels, that a named backbone takes."""
    if _lite_name(name):
        return efficientnet_lite.MIN_SIZE
    return applications.APPLICATIONS[applications.find_application(name)].min_size


def input_size(config: RunConfig) -> tuple[int, int]:
    """Return the height and width of the pictures that the network sees, without building it.

    Raises:
        ModelError: Neither config nor backbone says it.
    """
    given = config.data.image_size
    if given is None:
        return default_image_size(config.model)
    return (given, given) if isinstance(given, int) else given


def build_backbone(config: RunConfig, input_shape: tuple[int, int, int]) -> keras.Model:
    """Build the model that ``model.backbone`` names, with its weights.

    Args:
        config: model count.
        input_shape: Height, width and channels of the pictures.

    Raises:
        ModelError: Backbone, weights and picture size do not fit each other.
    """
    name, weights = config.model.backbone, config.model.weights
    if name == "none":
        image = keras.Input(input_shape, name="image")
        scaled = keras.layers.Rescaling(1 / 255, dtype=efficientnet_lite.exact_dtype(), name="normalise")(image)
        return keras.Model(image, scaled, name="none")
    if name.endswith(".keras"):
        return _build_from_file(name, weights, input_shape)
    lite = _lite_name(name)
    known = lite or applications.find_application(name)
    smallest = smallest_side(name)
    if min(input_shape[:2]) < smallest:
        raise ModelError(
            f"data.image_size is {input_shape[0]}x{input_shape[1]}; {known} takes no side below {smallest} pixels.",
            f"Set data.image_size to {smallest} or more.",
        )
    if weights != "none" and input_shape[2] != 3:
        raise ModelError(
            f"data.channels is {input_shape[2]}; the pretrained weights of {known} need 3.",
            "Set data.channels to 3 (grey pictures are then repeated), or model.weights to none.",
        )
    return (
        _build_lite(known, input_shape, weights)
        if lite
        else applications.build_application(known, input_shape, weights)
    )


def _build_lite(name: str, input_shape: tuple[int, int, int], weights: str) -> keras.Model:
    model = efficientnet_lite.build_efficientnet_lite(name, input_shape)
    if weights == "imagenet":
        efficientnet_lite.load_packaged_weights(model)
    elif weights.endswith((".pth", ".pt")):
        efficientnet_lite.load_torch_weights(model, weights)
    elif weights != "none":
        load_weights(model, weights)
    return model


def _build_from_file(path: str, weights: str, input_shape: tuple[int, int, int]) -> keras.Model:
    """Load a model file; ``imagenet``, the default, means the weights in the file itself."""
    loaded = load_model(path)
    expected = loaded.inputs[0].shape[1:]
    if any(side not in (None, given) for side, given in zip(expected, input_shape, strict=True)):
        raise ModelError(
            f"{path} takes pictures of shape {expected}; data.image_size and data.channels make {input_shape}.",
            "Change data.image_size and data.channels.",
        )
    # A clone has fresh random weights and layers of the wanted precision.
    model = keras.models.clone_model(loaded, clone_function=_under_policy, recursive=True)
    if weights == "imagenet":
        model.set_weights(loaded.get_weights())
    elif weights != "none":
        load_weights(model, weights)
    image = keras.Input(input_shape, name="image")
    return keras.Model(image, model.call(image), name=model.name)


def _under_policy(layer: Any) -> Any:
    config = layer.get_config()
    if "dtype" in config:
        config["dtype"] = keras.config.dtype_policy()
    return layer.__class__.from_config(config)


def _lite_name(name: str) -> str | None:
    key = name.lower().replace("_", "").replace("-", "")
    return next((lite for lite in efficientnet_lite.VARIANTS if lite.replace("_", "") == key), None)


def licence_of(config: ModelConfig) -> str:
    """Return the licence of the initial weights."""
    if config.weights == "none" or config.backbone == "none":
        return _RANDOM
    if config.weights != "imagenet":
        return f"as of the file {config.weights}"
    if config.backbone.endswith(".keras"):
        return f"as of the file {config.backbone}"
    if _lite_name(config.backbone):
        return efficientnet_lite.LICENCE
    return applications.APPLICATIONS[applications.find_application(config.backbone)].licence
