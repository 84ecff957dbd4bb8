"""Measured process: rayft's own loop on one worker, without Ray."""

from __future__ import annotations

import json
import math
import os
import sys

from gate import Gate
from setting import Setting

# Never reached: the gate ends the process.
EPOCHS = 100_000


def main() -> None:
    """Train until the driver has enough."""
    setting = Setting.from_json(sys.argv[1])
    gate = Gate(setting.cores)
    os.environ["TF_CONFIG"] = json.dumps(
        {"cluster": {"worker": setting.workers}, "task": {"type": "worker", "index": setting.rank}}
    )
    from rayft.config import parse_config
    from rayft.distributed.devices import plan_devices, prepare_tensorflow

    config = parse_config(setting.config)
    strategy = prepare_tensorflow(plan_devices(config.cluster))

    from source import memory_batches, with_rayft_fields

    from rayft.data.dataset import open_dataset
    from rayft.data.order import steps_per_epoch
    from rayft.data.training_batches import train_batches
    from rayft.learn.loop import Plan, train_epochs
    from rayft.learn.step import Task
    from rayft.model.network import build_network

    dataset = open_dataset(config)
    if setting.source == "memory":
        epoch = memory_batches(setting)
        steps, batches = int(epoch.cardinality()), with_rayft_fields(epoch, setting)
        examples = steps * setting.global_batch_size // len(setting.workers)
    else:
        examples = dataset.size("train")
        steps = steps_per_epoch(examples, setting.global_batch_size)
    network = build_network(config, len(dataset.labels), strategy)
    task = Task(config, network, total_steps=steps * EPOCHS, strategy=strategy)
    if setting.source == "encoded":
        threads = len(setting.cores)
        batches = train_batches(dataset, config, network.image_size, rank=0, num_workers=1, threads=threads)

    trainable = sum(math.prod(variable.shape) for variable in task.variables)
    # One flat vector a step: all gradients and the loss.
    gate.open(steps=steps, examples=examples, trainable=trainable, all_reduced_bytes=4 * (trainable + 1))
    for progress in train_epochs(task, batches, lambda: {}, Plan(steps, EPOCHS)):
        if progress.step % steps == 0:
            gate.epoch_done()


if __name__ == "__main__":
    main()
