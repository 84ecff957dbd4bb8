"""The sweep as Ray Tune and Keras give it: ``model.fit`` in each trial; ``python tune_fit_side.py SETTING``."""

from __future__ import annotations

import json
import sys
from typing import Any


def train(trial: dict[str, Any], tree: dict[str, Any]) -> None:
    """Fit one trial on the pictures and report its best validation accuracy."""
    import keras
    import tensorflow as tf
    from ray import tune

    from rayft.config import parse_config
    from rayft.data.dataset import Dataset, open_dataset
    from rayft.data.picture import decode_picture
    from rayft.distributed.devices import plan_devices
    from rayft.model.layers import portable
    from rayft.model.network import build_network

    config = parse_config(
        {**tree, "freeze": {**tree["freeze"], "depth": trial["depth"]}, "optim": {"learning_rate": trial["rate"]}}
    )
    devices = plan_devices(config.cluster)
    tf.config.threading.set_intra_op_parallelism_threads(devices.intra_op_threads)
    tf.config.threading.set_inter_op_parallelism_threads(devices.inter_op_threads)
    dataset = open_dataset(config)
    network = build_network(config, len(dataset.labels))

    def batches(data: Dataset, split: str) -> tf.data.Dataset:
        rows = data.split(split)
        encoded, labels = data.reader.read(rows["row"].to_numpy()), rows["label"].to_numpy()

        def decode(content: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.ensure_shape(decode_picture(content, network.image_size, 3), [*network.image_size, 3]), label

        examples = tf.data.Dataset.from_tensor_slices((encoded, labels))
        if split == "train":
            examples = examples.shuffle(len(encoded), seed=config.seed)
        decoded = examples.map(decode, num_parallel_calls=devices.intra_op_threads)
        return decoded.batch(config.data.global_batch_size).prefetch(tf.data.AUTOTUNE)

    train_batches = batches(dataset, "train")
    model = portable(network.model)
    steps = int(train_batches.cardinality()) * config.train.epochs
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(trial["rate"], steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    seen = model.fit(
        train_batches, validation_data=batches(dataset, "validation"), epochs=config.train.epochs, verbose=0
    )
    tune.report({"accuracy": max(seen.history["val_accuracy"])})


def main() -> None:
    """Run every combination, as many at once as there are workers' worth of CPUs."""
    import ray
    from ray import tune

    setting = json.loads(sys.argv[1])
    tree = setting["config"]
    ray.init("local", include_dashboard=False, log_to_driver=False, num_cpus=setting["cpus"])
    each = {"CPU": tree["cluster"]["cpus_per_worker"]}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, tree=tree), each),
        param_space={"depth": tune.grid_search(setting["depths"]), "rate": tune.grid_search(setting["rates"])},
        tune_config=tune.TuneConfig(metric="accuracy", mode="max"),
        run_config=tune.RunConfig(storage_path=setting["storage"], verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise SystemExit(f"{len(results.errors)} trials failed: {results.errors[0]}")
    best = results.get_best_result()
    print(json.dumps({"trials": len(results), "best": best.config, "accuracy": best.metrics["accuracy"]}))


if __name__ == "__main__":
    main()
