"""The frozen prefix, compiled for inference."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from rayft.errors import ModelError, StorageError
from rayft.model.fold import fold_batch_norm
from rayft.prefix.engine import OPENVINO, TENSORFLOW, import_openvino
from rayft.prefix.recipe import BATCH_ROWS

Compute = Callable[[tf.Tensor], list[np.ndarray]]

# Of the largest activation of a call: below, a CPU's caches hold most of what one layer hands to the next. Measured:
# EfficientNet-Lite0 takes 10.1 ms of CPU a picture of 224 px in calls of 4, 12.4 in calls of 32; at 96 px 2.3 and 1.8.
_MOST_BYTES = 24 << 20
_ITEM_BYTES = 4
# Measured, ms of CPU a picture in calls of 1, 8 and 16: EfficientNet-Lite0 at 96 px 2.1, 1.4, 1.6, at 224 px 8.6, 7.8,
# 8.7; ResNet50 at 96 px 18, 12, 11, at 224 px 59, 54, 57. The numbers are the same, bit for bit.
_OPENVINO_ROWS = 8


def compile_prefix(
    model: keras.Model, tensors: Sequence[Any], dtypes: Sequence[str], *, engine: str = TENSORFLOW, threads: int = 1
) -> Compute:
    """Compile the part of ``model`` up to several of its tensors into one function.

    BatchNorm is folded and the weights become constants, so that the engine fuses convolution, bias and
    activation, and lays the weights out once. On a CPU it runs on a few pictures at a time, so that activations
    stay small.

    Args:
        model: The network.
        tensors: KerasTensors of it.
        dtypes: In which each is stored.
        engine: Starts with tensorflow or openvino.
        threads: Of OpenVINO; its numbers do not depend on them.

    Returns:
        Maps pictures float32 [BATCH_ROWS, H, W, C] in 0..255 to the activations [BATCH_ROWS, ...] of each
        tensor; bfloat16 as its bits, uint16.

    Raises:
        ModelError: OpenVINO cannot run the network.
    """
    folded = fold_batch_norm(keras.Model(model.inputs[0], list(tensors), name="prefix"))
    rows = _openvino_rows(threads) if engine.startswith(OPENVINO) else _rows_a_call(folded)

    @tf.function(autograph=False)
    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        outputs = folded(images, training=False)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    pictures = tf.TensorSpec([rows, *model.inputs[0].shape[1:]], tf.float32)
    graph = convert_variables_to_constants_v2(forward.get_concrete_function(pictures))
    run = _on_openvino(graph, rows, threads) if engine.startswith(OPENVINO) else _on_tensorflow(graph, rows)

    def compute(images: tf.Tensor) -> list[np.ndarray]:
        return [_to_stored(output, dtype) for output, dtype in zip(run(images), dtypes, strict=True)]

    return compute


def _on_tensorflow(graph: Any, rows: int) -> Compute:
    def run(images: tf.Tensor) -> list[np.ndarray]:
        parts = [graph(images[first : first + rows]) for first in range(0, BATCH_ROWS, rows)]
        return [np.concatenate([output.numpy() for output in outputs]) for outputs in zip(*parts, strict=True)]

    return run


def _on_openvino(graph: Any, rows: int, threads: int) -> Compute:
    """Run several calls at once, each on one thread: no thread waits for another inside a convolution.

    The threads are ours. Those of OpenVINO hold on to a network for a moment after they have answered, and abort the
    process if that is the last hold.
    """
    openvino = import_openvino()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
        # Other processes of the machine compute as well: pinned, two of them could share one core.
        "ENABLE_CPU_PINNING": False,
    }
    try:
        with tempfile.TemporaryDirectory(prefix="rayft-prefix-") as folder:
            file = Path(folder) / "prefix.pb"
            file.write_bytes(graph.graph.as_graph_def().SerializeToString())
            compiled = openvino.compile_model(file, "CPU", settings)
        ports = [compiled.output(output.name) for output in graph.outputs]
        shapes = [tuple(port.shape)[1:] for port in ports]
        requests = [compiled.create_infer_request() for _ in range(threads)]
        # OpenVINO's first call of a process looks NumPy up in a way that two threads at once never come out of.
        requests[0].infer(np.zeros(tuple(compiled.input().shape), np.float32), share_inputs=True, share_outputs=True)
    except OSError as error:
        raise StorageError(
            f"Cannot write to {tempfile.gettempdir()}: {error.strerror}.", "Free some space, or set TMPDIR."
        ) from None
    except RuntimeError as error:
        lines = str(error).strip().splitlines()
        # The line of its report that names operations; what stands around it leads to its sources.
        why = next((line.removeprefix("-- ") for line in lines if line.startswith("-- ")), lines[-1])
        raise ModelError(
            f"OpenVINO cannot run the frozen prefix: {why}.",
            "Let TensorFlow run it: --set prefix_cache.engine=tensorflow.",
        ) from None
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefix")

    def run(images: tf.Tensor) -> list[np.ndarray]:
        pictures = images.numpy()
        outputs = [np.empty((BATCH_ROWS, *shape), np.float32) for shape in shapes]

        def take(number: int) -> None:
            for first in range(number * rows, BATCH_ROWS, threads * rows):
                answers = requests[number].infer(pictures[first : first + rows], share_inputs=True, share_outputs=True)
                for output, port in zip(outputs, ports, strict=True):
                    output[first : first + rows] = answers[port]

        # To ask for all results raises what a thread has raised.
        list(pool.map(take, range(threads)))
        return outputs

    return run


def _openvino_rows(threads: int) -> int:
    """Return how many pictures of a batch a thread computes at once, so that every thread has some."""
    rows = _OPENVINO_ROWS
    while rows > 1 and rows * threads > BATCH_ROWS:
        rows //= 2
    return rows


def _rows_a_call(model: keras.Model) -> int:
    """Return how many pictures to compute at once: a power of two that divides BATCH_ROWS."""
    if tf.config.list_logical_devices("GPU"):
        return BATCH_ROWS
    tensors = [tensor for layer in model.layers for tensor in keras.tree.flatten(layer.output)]
    largest = max(math.prod(side or 1 for side in tensor.shape[1:]) for tensor in tensors) * _ITEM_BYTES
    rows = BATCH_ROWS
    while rows > 1 and rows * largest > _MOST_BYTES:
        rows //= 2
    return rows


def from_stored(values: tf.Tensor, dtype: str) -> tf.Tensor:
    """Return stored numbers as the dtype that their recipe names."""
    return tf.bitcast(values, tf.bfloat16) if dtype == "bfloat16" else values


def _to_stored(values: np.ndarray, dtype: str) -> np.ndarray:
    return (
        values.astype(ml_dtypes.bfloat16).view(np.uint16) if dtype == "bfloat16" else values.astype(dtype, copy=False)
    )
