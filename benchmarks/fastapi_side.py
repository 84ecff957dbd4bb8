"""Measured server: FastAPI around the compiled Keras model, one picture a call, as many calls at once as cores."""

from __future__ import annotations

import os
import sys

import anyio.to_thread
import tensorflow as tf
import uvicorn
from fastapi import FastAPI, Request

from rayft.data.picture import decode_picture
from rayft.package.read import read_package


def main() -> None:
    """Serve a package until the driver ends this process."""
    folder, port = sys.argv[1], int(sys.argv[2])
    package = read_package(folder)
    model, labels = package.model, package.labels
    app = FastAPI()
    shape = (None, *package.image_size, package.channels)
    network = tf.function(lambda x: model(x, training=False), input_signature=[tf.TensorSpec(shape, tf.float32)])
    cores = anyio.CapacityLimiter(len(os.sched_getaffinity(0)))

    def classify(body: bytes) -> dict:
        image = decode_picture(tf.constant(body), package.image_size, package.channels)
        probabilities = network(image[None]).numpy()[0]
        return {"label": labels[int(probabilities.argmax())], "probabilities": probabilities.tolist()}

    @app.post("/predict")
    async def predict(request: Request) -> dict:
        body = await request.body()
        return await anyio.to_thread.run_sync(classify, body, limiter=cores)

    classify(package.golden.inputs[0])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
