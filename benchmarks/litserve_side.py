"""Measured server: LitServe with batching around the compiled Keras model; takes JSON, as its guides do."""

from __future__ import annotations

import base64
import sys

import litserve
import numpy as np

MAX_BATCH_SIZE, WAIT_S = 16, 0.01


class Pictures(litserve.LitAPI):
    """Decodes each picture, answers them in batches."""

    def __init__(self, folder: str) -> None:
        super().__init__(max_batch_size=MAX_BATCH_SIZE, batch_timeout=WAIT_S)
        self._folder = folder

    def setup(self, device: str) -> None:
        """Load and warm the network in the worker process."""
        import tensorflow as tf

        from rayft.data.picture import decode_picture
        from rayft.package.read import read_package

        package = read_package(self._folder)
        model, size, channels = package.model, package.image_size, package.channels
        self._labels = package.labels
        self._decode = tf.function(
            lambda encoded: decode_picture(encoded, size, channels), input_signature=[tf.TensorSpec((), tf.string)]
        )
        shape = tf.TensorSpec((None, *size, channels), tf.float32)
        self._network = tf.function(lambda x: model(x, training=False), input_signature=[shape])
        for count in range(1, MAX_BATCH_SIZE + 1):
            self._network(np.zeros((count, *shape.shape[1:]), np.float32))

    def decode_request(self, request: dict) -> np.ndarray:
        """Decode one picture."""
        return self._decode(base64.b64decode(request["image"])).numpy()

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Stack decoded pictures."""
        return np.stack(inputs)

    def predict(self, batch: np.ndarray) -> np.ndarray:
        """Answer a batch."""
        return self._network(batch if batch.ndim == 4 else batch[None]).numpy()

    def unbatch(self, output: np.ndarray) -> list:
        """Give each request its answer."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict:
        """Write one answer."""
        return {"label": self._labels[int(output.argmax())], "probabilities": output.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Pictures(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
