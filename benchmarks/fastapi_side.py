"""Measured server: what a team writes in an afternoon, FastAPI around ``model.predict``."""

from __future__ import annotations

import sys

import keras
import tensorflow as tf
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

from rayft.data.picture import decode_picture
from rayft.package.read import read_package


def main() -> None:
    """Serve a package until the driver ends this process."""
    folder, port = sys.argv[1], int(sys.argv[2])
    package = read_package(folder)
    model, labels = package.model, package.labels
    app = FastAPI()

    def classify(body: bytes) -> dict:
        image = decode_picture(tf.constant(body), package.image_size, package.channels)
        # The call that Keras' documentation recommends for small inputs; `predict` is slower still.
        probabilities = keras.ops.convert_to_numpy(model(image[None], training=False))[0]
        return {"label": labels[int(probabilities.argmax())], "probabilities": probabilities.tolist()}

    @app.post("/predict")
    async def predict(request: Request) -> dict:
        body = await request.body()
        return await run_in_threadpool(classify, body)

    classify(package.golden.inputs[0])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
