"""Measured process: rayft's input pipeline, or a hand-written one of tf.data, without any training."""

from __future__ import annotations

import sys

from gate import Gate
from setting import Setting


def main() -> None:
    """Read epochs until the driver has enough."""
    setting = Setting.from_json(sys.argv[1])
    gate = Gate(setting.cores)
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(len(setting.cores))
    tf.config.threading.set_inter_op_parallelism_threads(len(setting.cores))
    from rayft.config import parse_config
    from rayft.data.dataset import open_dataset
    from rayft.data.order import steps_per_epoch
    from rayft.data.training_batches import train_batches

    config = parse_config(setting.config)
    side = config.data.image_size
    dataset = open_dataset(config)
    examples = dataset.size("train")
    steps = steps_per_epoch(examples, setting.global_batch_size)
    if setting.source == "rayft":
        threads = len(setting.cores)
        batches = train_batches(dataset, config, (side, side), rank=0, num_workers=1, threads=threads)
    else:
        batches = plain_batches(setting, side)

    gate.open(steps=steps, examples=examples)
    while True:
        # A new iterator each time, so that no side works ahead while another has its turn.
        for _ in batches:
            pass
        gate.epoch_done()


def plain_batches(setting: Setting, side: int):
    """Return one epoch as an engineer writes it who knows tf.data well."""
    import pyarrow.parquet as pq
    import tensorflow as tf

    table = pq.read_table(setting.data)
    encoded, labels = table["image"].to_pylist(), table["label"].to_numpy()
    change = setting.config["data"]["augment"]

    def decode(content, label):
        if not change:
            image = tf.io.decode_jpeg(content, channels=3)
            return tf.image.resize(image, [side, side], antialias=True), label
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(content),
            tf.zeros([1, 0, 4]),
            aspect_ratio_range=(0.75, 1.3333),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.image.decode_and_crop_jpeg(content, window, channels=3)
        image = tf.image.resize(image, [side, side], antialias=True)
        image = tf.image.random_flip_left_right(image)
        image = tf.image.random_brightness(image, change["brightness"] * 255)
        image = tf.image.random_contrast(image, 1 - change["contrast"], 1 + change["contrast"])
        image = tf.image.random_saturation(image, 1 - change["saturation"], 1 + change["saturation"])
        return tf.clip_by_value(image, 0.0, 255.0), label

    examples = tf.data.Dataset.from_tensor_slices((encoded, labels)).shuffle(len(encoded))
    decoded = examples.map(decode, num_parallel_calls=tf.data.AUTOTUNE)
    return decoded.batch(setting.global_batch_size).prefetch(tf.data.AUTOTUNE)


if __name__ == "__main__":
    main()
