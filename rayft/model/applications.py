"""Backbones from ``keras.applications`` that take pictures in 0..255."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from rayft.errors import ModelError
from rayft.model.efficientnet_lite import exact_dtype
from rayft.model.weights_file import load_weights

_CONVNEXT = "Apache-2.0 (Keras); MIT (Meta ConvNeXt)"
_KERAS = "Apache-2.0 (Keras, TensorFlow)"
_DENSENET = "BSD-3-Clause (DenseNet authors)"
_RESNET = "MIT (Kaiming He et al.)"
_VGG = "CC BY 4.0 (Visual Geometry Group, Oxford)"


@dataclass(frozen=True)
class Application:
    """One network of ``keras.applications``.

    Attributes:
        image_size: Side of the pictures it was trained on, pixels.
        min_size: Smallest side it accepts, pixels.
        preprocessing: Keras' name of the scaling that the weights expect; built_in when the graph has it.
        licence: Licence of the ImageNet weights.
    """

    image_size: int
    min_size: int
    preprocessing: str
    licence: str


APPLICATIONS = {
    "ConvNeXtBase": Application(224, 32, "built_in", _CONVNEXT),
    "ConvNeXtLarge": Application(224, 32, "built_in", _CONVNEXT),
    "ConvNeXtSmall": Application(224, 32, "built_in", _CONVNEXT),
    "ConvNeXtTiny": Application(224, 32, "built_in", _CONVNEXT),
    "ConvNeXtXLarge": Application(224, 32, "built_in", _CONVNEXT),
    "DenseNet121": Application(224, 32, "torch", _DENSENET),
    "DenseNet169": Application(224, 32, "torch", _DENSENET),
    "DenseNet201": Application(224, 32, "torch", _DENSENET),
    "EfficientNetB0": Application(224, 32, "built_in", _KERAS),
    "EfficientNetB1": Application(240, 32, "built_in", _KERAS),
    "EfficientNetB2": Application(260, 32, "built_in", _KERAS),
    "EfficientNetB3": Application(300, 32, "built_in", _KERAS),
    "EfficientNetB4": Application(380, 32, "built_in", _KERAS),
    "EfficientNetB5": Application(456, 32, "built_in", _KERAS),
    "EfficientNetB6": Application(528, 32, "built_in", _KERAS),
    "EfficientNetB7": Application(600, 32, "built_in", _KERAS),
    "EfficientNetV2B0": Application(224, 32, "built_in", _KERAS),
    "EfficientNetV2B1": Application(240, 32, "built_in", _KERAS),
    "EfficientNetV2B2": Application(260, 32, "built_in", _KERAS),
    "EfficientNetV2B3": Application(300, 32, "built_in", _KERAS),
    "EfficientNetV2L": Application(480, 32, "built_in", _KERAS),
    "EfficientNetV2M": Application(480, 32, "built_in", _KERAS),
    "EfficientNetV2S": Application(384, 32, "built_in", _KERAS),
    "InceptionResNetV2": Application(299, 75, "tf", _KERAS),
    "InceptionV3": Application(299, 75, "tf", _KERAS),
    "MobileNet": Application(224, 32, "tf", _KERAS),
    "MobileNetV2": Application(224, 32, "tf", _KERAS),
    "MobileNetV3Large": Application(224, 32, "built_in", _KERAS),
    "MobileNetV3Small": Application(224, 32, "built_in", _KERAS),
    "NASNetLarge": Application(331, 32, "tf", _KERAS),
    "NASNetMobile": Application(224, 32, "tf", _KERAS),
    "ResNet101": Application(224, 32, "caffe", _RESNET),
    "ResNet101V2": Application(224, 32, "tf", _RESNET),
    "ResNet152": Application(224, 32, "caffe", _RESNET),
    "ResNet152V2": Application(224, 32, "tf", _RESNET),
    "ResNet50": Application(224, 32, "caffe", _RESNET),
    "ResNet50V2": Application(224, 32, "tf", _RESNET),
    "VGG16": Application(224, 32, "caffe", _VGG),
    "VGG19": Application(224, 32, "caffe", _VGG),
    "Xception": Application(299, 71, "tf", _KERAS),
}
_NAMES = {name.lower(): name for name in APPLICATIONS}
# ImageNet statistics of RGB pictures in 0..255 (caffe) and 0..1 (torch), as in Keras' imagenet_utils.
CAFFE_MEAN = (123.68, 116.779, 103.939)
TORCH_MEAN = (0.485, 0.456, 0.406)
TORCH_STD = (0.229, 0.224, 0.225)


def find_application(name: str) -> str:
    """Return Keras' spelling of ``name``; case and underscores do not matter.

    Raises:
        ModelError: There is no such network; the nearest names are given.
    """
    key = re.sub(r"[_\-\s]", "", name.lower())
    if key in _NAMES:
        return _NAMES[key]
    known = [*_NAMES, "efficientnetlite0", "efficientnetlite1", "efficientnetlite2"]
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"near it: {', '.join(near)}" if near else "for example efficientnet_lite0, vgg16, resnet50, mobilenetv2"
    raise ModelError(
        f"model.backbone is {name!r}, which is no known network ({hint}).",
        "Give efficientnet_lite0, a keras.applications name, the path of a .keras file, or none.",
    )


def build_application(name: str, input_shape: tuple[int, int, int], weights: str) -> keras.Model:
    """Build a network without its top, with its preprocessing in the graph.

    Args:
        name: A key of ``APPLICATIONS``.
        input_shape: (height, width, channels); pretrained weights need three channels.
        weights: imagenet (Keras downloads them), none, or a path to a file of weights without the top.

    Returns:
        Functional model from float RGB [b, H, W, 3] in 0..255 to feature maps.

    Raises:
        ModelError: The weights cannot be had, or do not fit.
    """
    network = _instantiate(name, input_shape, "imagenet" if weights == "imagenet" else None)
    if weights not in ("imagenet", "none"):
        load_weights(network, weights)
        if network.name.startswith("efficientnetb"):
            _correct_published_variance(network)
    image = keras.Input(input_shape, name="image")
    # Calling the graph, not the model, keeps all layers in one flat graph.
    features = network.call(_preprocess(image, APPLICATIONS[name].preprocessing, input_shape[-1]))
    return keras.Model(image, features, name=network.name)


def _instantiate(name: str, input_shape: tuple[int, int, int], weights: str | None) -> keras.Model:
    build = getattr(keras.applications, name)
    try:
        return build(include_top=False, weights=weights, input_shape=input_shape)
    except ValueError as error:
        raise ModelError(
            f"{name} cannot be built for pictures of {input_shape}: {error}.",
            "Change data.image_size or data.channels.",
        ) from None
    except Exception as error:
        # Keras reports a failed download as a bare Exception; anything else is not ours to explain.
        if "URL fetch failure" not in str(error):
            raise
        raise ModelError(
            f"The ImageNet weights of {name} could not be downloaded: {error}.",
            "Connect this machine, or set model.weights to none or to a local .h5 or .keras file.",
        ) from None


def _preprocess(image: Any, mode: str, channels: int) -> Any:
    """Scale pictures in 0..255 as ``preprocess_input`` of the network's family does."""
    if mode == "built_in":
        return image
    if mode == "tf" or channels == 1:
        # One channel has no ImageNet statistics; such a network starts from random weights.
        return keras.layers.Rescaling(1 / 127.5, -1.0, dtype=exact_dtype(), name="normalise")(image)
    if mode == "caffe":
        offset = [-mean for mean in CAFFE_MEAN]
        centred = keras.layers.Rescaling(1.0, offset, dtype=exact_dtype(), name="normalise")(image)
        return keras.ops.flip(centred, axis=-1)
    scale = [1 / (255 * std) for std in TORCH_STD]
    offset = [-mean / std for mean, std in zip(TORCH_MEAN, TORCH_STD, strict=True)]
    return keras.layers.Rescaling(scale, offset, dtype=exact_dtype(), name="normalise")(image)


def _correct_published_variance(network: keras.Model) -> None:
    """Mend the input variance of Keras' published EfficientNetB weights.

    Their files hold standard deviations there. Keras makes up for it with one more layer, but only where
    it downloads the file itself.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            mean, variance, count = layer.get_weights()
            if np.allclose(np.ravel(variance), TORCH_STD, atol=1e-6):
                layer.set_weights([mean, np.square(variance), count])
                layer.finalize_state()
