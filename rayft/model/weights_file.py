"""Weights and whole models from local Keras files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import keras

from rayft.errors import ModelError

# What Keras raises on files that are damaged, unsafe, or made for another model.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def load_weights(model: keras.Model, path: str) -> None:
    """Fill ``model`` from a ``.weights.h5``, ``.h5`` or ``.keras`` file of the same architecture.

    Raises:
        ModelError: The file is missing, of another kind, or made for another architecture.
    """
    _require_file(path, (".h5", ".keras"), "model.weights")
    if path.endswith(".keras"):
        weights = load_model(path).get_weights()
        shapes = [w.shape for w in weights], [tuple(w.shape) for w in model.weights]
        if shapes[0] != shapes[1]:
            raise _misfit(path, model, f"it holds {len(shapes[0])} arrays, {len(shapes[1])} of fixed shapes are needed")
        model.set_weights(weights)
        return
    try:
        model.load_weights(path)
    except _UNREADABLE as error:
        raise _misfit(path, model, _first_line(error)) from None


def load_model(path: str) -> keras.Model:
    """Load a ``.keras`` file as a flat functional model; code in the file is refused.

    Returns:
        Model with one image input [b, H, W, C] and one output; it shares nothing with the file.

    Raises:
        ModelError: The file is missing, damaged, unsafe, or holds another kind of model.
    """
    _require_file(path, (".keras",), "model.backbone")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except _UNREADABLE as error:
        raise ModelError(
            f"Cannot load the model {path!r}: {_first_line(error)}.",
            "Give a .keras file of built-in layers only: no Lambda, no classes of your own.",
        ) from None
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if not hasattr(model, "_nodes_by_depth") or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ModelError(
            f"{path} holds a {type(model).__name__} that is not a graph with one input and one output.",
            "Save a functional or a built Sequential model.",
        )
    if len(model.inputs[0].shape) != 4:
        raise ModelError(
            f"{path} takes an input of shape {model.inputs[0].shape}; pictures are [batch, height, width, channels].",
            "Give a model of pictures.",
        )
    return model


def read_input_size(path: str) -> tuple[int | None, int | None]:
    """Read (height, width) that a ``.keras`` file takes, without building the model; None where it takes any.

    Raises:
        ModelError: The file is missing, or is not a Keras model of pictures.
    """
    _require_file(path, (".keras",), "model.backbone")
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))["config"]
        shapes = [layer["config"]["batch_shape"] for layer in config["layers"] if layer["class_name"] == "InputLayer"]
        _, height, width, _ = shapes[0]
    except _UNREADABLE as error:
        raise ModelError(
            f"{path} is not a Keras model of pictures: {_first_line(error)}.", "Give a .keras file of such a model."
        ) from None
    return height, width


def _require_file(path: str, endings: tuple[str, ...], field: str) -> None:
    if not path.endswith(endings):
        raise ModelError(
            f"{field} is {path!r}; files ending in {' or '.join(endings)} are allowed.", "Convert the file."
        )
    if not Path(path).is_file():
        raise ModelError(f"{field} is {path!r}, and there is no such file.", "Give the path of an existing file.")


def _misfit(path: str, model: keras.Model, reason: str) -> ModelError:
    return ModelError(
        f"{path} does not hold the weights of {model.name}: {reason}.",
        f"Give weights of {model.name} saved without its classification top.",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
