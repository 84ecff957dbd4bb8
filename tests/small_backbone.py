"""The smallest backbone with what matters to a step: two blocks of a convolution and its BatchNormalization."""

import keras

SIDE = 8


def small_backbone(side=SIDE, **convolution):
    """Return it for pictures of that side; ``convolution`` holds more arguments of Conv2D."""
    x = inputs = keras.Input((side, side, 3))
    x = keras.layers.Rescaling(1 / 255)(x)
    for block in (1, 2):
        x = keras.layers.Conv2D(4, 3, use_bias=False, name=f"block{block}_conv", **convolution)(x)
        x = keras.layers.BatchNormalization(name=f"block{block}_bn")(x)
        x = keras.layers.ReLU(name=f"block{block}_relu")(x)
    return keras.Model(inputs, x)


def save_small_backbone(folder):
    """Write it with weights that are the same each time; returns the path as text."""
    keras.utils.set_random_seed(1)
    small_backbone(padding="same").save(folder / "small.keras")
    return str(folder / "small.keras")
