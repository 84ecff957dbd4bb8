"""LiteRT, formerly TensorFlow Lite, converted by TensorFlow and run by its interpreter."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from rayft.export.graph import IMAGE, PROBABILITIES, Graph

SIGNATURE = "serving_default"


def write(graph: Graph, path: Path, quantize: str | None = None) -> None:
    """Write the file.

    Args:
        graph: What to convert.
        path: The file.
        quantize: ``float16``: weights of half the bits. ``int8-dynamic``: weights of a quarter, and sums in
            integers. None: float32.
    """
    # The converter leaves the variables of Keras 3 unset, which then read as not-a-number.
    frozen = convert_variables_to_constants_v2(graph.answer_images.get_concrete_function())
    module = tf.Module()
    module.answer = tf.function(lambda image: {PROBABILITIES: frozen(image)[0]}, graph.answer_images.input_signature)
    with tempfile.TemporaryDirectory(prefix="rayft-export-") as scratch:
        tf.saved_model.save(module, scratch, signatures={SIGNATURE: module.answer})
        converter = tf.lite.TFLiteConverter.from_saved_model(scratch, signature_keys=[SIGNATURE])
        if quantize is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        path.write_bytes(converter.convert())


def answer(path: Path, images: np.ndarray) -> list[np.ndarray]:
    """Run what was written, all pictures in one batch."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(path)).get_signature_runner(SIGNATURE)
    return [runner(**{IMAGE: images})[PROBABILITIES]]
