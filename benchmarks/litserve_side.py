"""Measured server: LitServe with batching, around the same compiled network; takes JSON, as its guides do."""

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
        from rayft.serve.predictor import load

        self._predictor = load(self._folder)
        for size in range(1, MAX_BATCH_SIZE + 1):
            self._predictor.predict_images(np.zeros((size, *self._predictor.image_shape), np.float32))

    def decode_request(self, request: dict) -> np.ndarray:
        """Decode one picture as rayft does."""
        return self._predictor.decode(base64.b64decode(request["image"]), "request")

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Stack decoded pictures."""
        return np.stack(inputs)

    def predict(self, batch: np.ndarray) -> list:
        """Answer a batch."""
        return self._predictor.predict_images(batch if batch.ndim == 4 else batch[None])

    def unbatch(self, output: list) -> list:
        """Give each request its answer."""
        return output

    def encode_response(self, output) -> dict:
        """Write one answer."""
        return {"label": output.label, "probabilities": output.probabilities.tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Pictures(sys.argv[1]), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=int(sys.argv[2]), generate_client_file=False, log_level="warning")
