"""Measured process: Keras' ``model.fit`` on the same network."""

from __future__ import annotations

import math
import sys

from gate import Gate
from setting import Setting


def main() -> None:
    """Train until the driver has enough."""
    setting = Setting.from_json(sys.argv[1])
    gate = Gate(setting.cores)
    import keras
    import tensorflow as tf

    from rayft.config import parse_config
    from rayft.distributed.devices import plan_devices

    config = parse_config(setting.config)
    devices = plan_devices(config.cluster)
    tf.config.threading.set_intra_op_parallelism_threads(devices.intra_op_threads)
    tf.config.threading.set_inter_op_parallelism_threads(devices.inter_op_threads)

    from source import encoded_batches, memory_batches

    from rayft.data.dataset import open_dataset
    from rayft.model.layers import portable
    from rayft.model.network import build_network

    dataset = open_dataset(config)
    network = build_network(config, len(dataset.labels))
    model = portable(network.model)
    model.compile(
        optimizer=keras.optimizers.Adam(config.optim.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=setting.jit_compile,
    )
    if setting.source == "memory":
        batches = memory_batches(setting)
        examples = int(batches.cardinality()) * setting.global_batch_size
    else:
        batches = encoded_batches(dataset, setting, network.image_size)
        examples = dataset.size("train")

    class Turns(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            trainable = sum(math.prod(variable.shape) for variable in model.trainable_variables)
            gate.open(steps=int(batches.cardinality()), examples=examples, trainable=trainable)

        def on_epoch_end(self, epoch, logs=None):
            gate.epoch_done()

    model.fit(batches, epochs=1_000_000, verbose=0, callbacks=[Turns()])


if __name__ == "__main__":
    main()
