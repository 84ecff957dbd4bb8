"""TensorFlow's SavedModel: a folder that TensorFlow Serving takes as it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from rayft.export.graph import ENCODED, IMAGE, PROBABILITIES, Graph

# Of encoded pictures, what TensorFlow Serving calls where no signature is named; of decoded ones.
ENCODED_SIGNATURE, IMAGE_SIGNATURE = "serving_default", "images"


def write(graph: Graph, path: Path) -> None:
    """Write the folder."""
    signatures = {ENCODED_SIGNATURE: graph.answer_encoded, IMAGE_SIGNATURE: graph.answer_images}
    tf.saved_model.save(graph, str(path), signatures=signatures)


def answer(path: Path, encoded: list[bytes], images: np.ndarray) -> list[np.ndarray]:
    """Load what was written and answer pictures through each signature, float32 [n, classes] each."""
    signatures = tf.saved_model.load(str(path)).signatures
    from_bytes = signatures[ENCODED_SIGNATURE](**{ENCODED: tf.constant(encoded)})
    from_images = signatures[IMAGE_SIGNATURE](**{IMAGE: tf.constant(images)})
    return [from_bytes[PROBABILITIES].numpy(), from_images[PROBABILITIES].numpy()]
