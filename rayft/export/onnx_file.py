"""ONNX, converted by tf2onnx and run by ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rayft.export.graph import IMAGE, PROBABILITIES, Graph

# Runtimes from 2022 on read it.
OPSET = 17


def write(graph: Graph, path: Path, num_classes: int, facts: dict[str, Any]) -> None:
    """Write the file; ``facts`` go into its metadata, one JSON text an entry."""
    import onnx
    import tf2onnx

    signature = graph.answer_images.input_signature
    model, _ = tf2onnx.convert.from_function(graph.answer_images, input_signature=signature, opset=OPSET)
    # The converter invents names of dimensions, and loses some.
    image, probabilities = model.graph.input[0], model.graph.output[0]
    for value, rest in ((image, signature[0].shape[1:]), (probabilities, [num_classes])):
        shape = onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, ["n", *rest])
        value.CopyFrom(shape)
    for name, fact in facts.items():
        model.metadata_props.add(key=name, value=json.dumps(fact, ensure_ascii=False))
    path.write_bytes(model.SerializeToString())


def answer(path: Path, images: np.ndarray) -> list[np.ndarray]:
    """Run what was written."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run([PROBABILITIES], {IMAGE: images})
