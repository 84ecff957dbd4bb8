"""How long a network takes for one picture."""

from __future__ import annotations

import statistics
import time

import tensorflow as tf

from rayft.config import RunConfig, parse_config
from rayft.learn.forward import Forward
from rayft.model.network import build_network

WARM_UP, MEASURED = 3, 15


def measure_latency(config: RunConfig, num_classes: int) -> float:
    """Return the median time of one picture, milliseconds, on this process's devices.

    The weights do not enter, so they are random.

    Args:
        config: model, freeze, data.image_size, data.channels and train.precision count.
        num_classes: Width of the logits.
    """
    tree = config.model_dump()
    if not config.model.backbone.endswith(".keras"):
        tree["model"]["weights"] = "none"
    network = build_network(parse_config(tree), num_classes)
    forward = Forward(network)
    answer = tf.function(lambda images: forward(images, training=False))
    picture = tf.zeros([1, *network.image_size, config.data.channels])
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        started = time.perf_counter()
        answer(picture).numpy()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM_UP:]) * 1000
