"""The bare script that start-up is compared with: ``python bare_keras.py PARQUET SIDE BATCH``."""

import sys

import keras
import pyarrow.parquet as pq
import tensorflow as tf
from stamp import stamp


class FirstStep(keras.callbacks.Callback):
    """Ends the training after its first step."""

    def on_train_batch_end(self, batch, logs=None):
        """Note the moment; stop."""
        stamp("step")
        self.model.stop_training = True
        raise SystemExit(0)


def main() -> None:
    """Train MobileNetV2's head on pictures of a Parquet file."""
    stamp("imported")
    path, side, batch_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    table = pq.read_table(path, columns=["image", "label", "split"])
    rows = [row for row in table.to_pylist() if row["split"] == "train"]
    images, labels = [row["image"] for row in rows], [row["label"] for row in rows]

    def decode(content, label):
        image = tf.io.decode_image(content, channels=3, expand_animations=False)
        return tf.ensure_shape(tf.image.resize(image, (side, side)), (side, side, 3)), label

    batches = tf.data.Dataset.from_tensor_slices((images, labels)).shuffle(len(rows))
    batches = batches.map(decode, num_parallel_calls=tf.data.AUTOTUNE).batch(batch_size).prefetch(tf.data.AUTOTUNE)
    stamp("data")
    base = keras.applications.MobileNetV2((side, side, 3), include_top=False, weights=None, pooling="avg")
    base.trainable = False
    image = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(image)
    x = keras.layers.Dropout(0.2)(base(x, training=False))
    model = keras.Model(image, keras.layers.Dense(max(labels) + 1)(x))
    model.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    stamp("built")
    model.fit(batches, verbose=0, callbacks=[FirstStep()])


if __name__ == "__main__":
    main()
