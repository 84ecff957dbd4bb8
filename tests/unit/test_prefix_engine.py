import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from rayft.config import parse_config
from rayft.errors import ConfigError, ModelError
from rayft.model.freeze import resolve_depth
from rayft.model.network import build_network, find_boundary
from rayft.prefix import compute as prefix_compute
from rayft.prefix.compute import compile_prefix
from rayft.prefix.engine import choose_engine
from rayft.prefix.recipe import BATCH_ROWS

SIDE = 75  # The smallest that all networks take.
FAMILIES = ["efficientnet_lite0", "MobileNetV2", "ResNet50", "VGG16"]
OTHERS = [
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "InceptionResNetV2",
    "InceptionV3",
    "MobileNet",
    "MobileNetV3Small",
    "NASNetMobile",
    "ResNet50V2",
    "Xception",
]


def pictures_of(shape):
    return tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH_ROWS, *shape)).astype("float32"))


def small(*layers):
    tensor = inputs = keras.Input((8, 8, 3))
    for layer in layers:
        tensor = layer(tensor)
    return keras.Model(inputs, tensor)


def run(model, engine, dtypes=None, threads=1, outputs=None):
    outputs = outputs or [model.output]
    compute = compile_prefix(model, outputs, dtypes or ["float32"] * len(outputs), engine=engine, threads=threads)
    return compute(pictures_of(model.inputs[0].shape[1:]))


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.full) for name in OTHERS)])
def test_openvino_gives_the_activations_of_tensorflow_at_several_boundaries(name):
    config = parse_config(
        {
            "data": {"source": "none", "image_size": SIDE},
            "model": {"backbone": name, "weights": "none"},
            "freeze": {"depth": "all"},
        }
    )
    network = build_network(config, 3)
    # The deeper one first: what comes back stands in the order asked for.
    depths = [len(network.blocks), resolve_depth(0.5, network.blocks)]
    tensors = [find_boundary(network.model, network.blocks, depth) for depth in depths]
    tensors = [tensor for tensor in tensors if tensor is not None]
    assert tensors
    prefix = keras.Model(network.model.inputs[0], tensors)
    assert choose_engine(prefix, "auto").startswith("openvino ")
    for ours, theirs in zip(
        run(network.model, "openvino", threads=2, outputs=tensors),
        run(network.model, "tensorflow", outputs=tensors),
        strict=True,
    ):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * np.abs(theirs).max())


def test_the_numbers_of_openvino_do_not_depend_on_its_threads_nor_on_the_pictures_of_a_call():
    model = small(keras.layers.Conv2D(16, 3), keras.layers.ReLU(), keras.layers.Conv2D(64, 3), keras.layers.Flatten())
    one = run(model, "openvino", threads=1)[0]
    # Three do not share four calls evenly; of twenty, each call has one picture.
    for threads in (2, 3, 20):
        np.testing.assert_array_equal(run(model, "openvino", threads=threads)[0], one)
    assert [prefix_compute._openvino_rows(threads) for threads in (1, 4, 5, 8, 9, 16, 20, 32, 64)] == [
        *(8, 8, 4, 4, 2, 2, 1, 1, 1)
    ]


def test_the_first_pass_of_a_process_ends_with_many_threads():
    # Without a call before the threads', nearly every process stands still here for ever.
    script = (
        "import keras, numpy as np, sys\n"
        "from rayft.prefix.compute import BATCH_ROWS, compile_prefix\n"
        "inputs = keras.Input((16, 16, 3))\n"
        "model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))\n"
        "compute = compile_prefix(model, [model.output], ['float32'], engine='openvino', threads=32)\n"
        "pictures = keras.ops.zeros((BATCH_ROWS, 16, 16, 3))\n"
        "sys.setswitchinterval(1e-6)\n"
        "print(compute(pictures)[0].shape[1:])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout == "(14, 14, 4)\n"


def test_openvino_rounds_to_bfloat16_as_tensorflow_does():
    model = small(keras.layers.Flatten())
    (ours,) = run(model, "openvino", ["bfloat16"])
    (theirs,) = run(model, "tensorflow", ["bfloat16"])
    pictures = tf.reshape(pictures_of((8, 8, 3)), (BATCH_ROWS, -1))
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, tf.bitcast(tf.cast(pictures, tf.bfloat16), tf.uint16).numpy())


@keras.saving.register_keras_serializable("tests")
class Eigenvalues(keras.layers.Layer):
    """Computes what OpenVINO has no operation for."""

    def call(self, pictures):
        square = tf.reduce_mean(pictures, axis=-1)
        return tf.linalg.eigvalsh(square + tf.transpose(square, (0, 2, 1)))


@keras.saving.register_keras_serializable("tests")
class Multiply(keras.layers.Layer):
    """Has the name of a layer of Keras."""

    def call(self, pictures):
        return 2 * pictures


FLOAT32 = keras.layers.Activation("linear", dtype="float32")


@pytest.mark.parametrize(
    ("model", "wanted", "engine"),
    [
        (lambda: small(keras.layers.Conv2D(4, 3)), "auto", "openvino"),
        (lambda: small(keras.layers.Conv2D(4, 3)), "openvino", "openvino"),
        (lambda: small(keras.layers.Conv2D(4, 3)), "tensorflow", "tensorflow"),
        (lambda: small(small(keras.layers.Conv2D(4, 3))), "auto", "openvino"),
        (lambda: small(Eigenvalues()), "auto", "tensorflow"),
        (lambda: small(small(Eigenvalues())), "auto", "tensorflow"),
        (lambda: small(keras.layers.Conv2D(4, 3, dtype="float64")), "auto", "tensorflow"),
        (lambda: small(keras.layers.Conv2D(4, 3, dtype="mixed_bfloat16")), "auto", "tensorflow"),
        (lambda: small(small(keras.layers.Conv2D(4, 3, dtype="float64"), FLOAT32)), "auto", "tensorflow"),
        (lambda: small(keras.layers.Conv2D(4, 3, activation="relu")), "auto", "openvino"),
        (lambda: small(keras.layers.Conv2D(4, 3, activation=lambda values: 2 * values)), "auto", "tensorflow"),
        (lambda: small(Multiply()), "auto", "tensorflow"),
    ],
)
def test_auto_takes_openvino_for_the_float32_layers_that_it_knows(model, wanted, engine):
    assert choose_engine(model(), wanted).startswith(f"{engine} ")


def test_openvino_is_refused_where_it_cannot_compute():
    with pytest.raises(ConfigError, match=r"prefix_cache.engine is openvino, but the prefix computes in float64"):
        choose_engine(small(keras.layers.Conv2D(4, 3, dtype="float64")), "openvino")
    model = small(Eigenvalues())
    assert choose_engine(model, "openvino").startswith("openvino ")
    words = "OpenVINO cannot run the frozen prefix: No conversion rule found for operations: SelfAdjointEigV2"
    with pytest.raises(ModelError, match=words) as error:
        run(model, "openvino")
    assert "prefix_cache.engine=tensorflow" in str(error.value)


def test_openvino_sends_nothing_to_its_maker(tmp_path):
    script = (
        "from rayft.prefix.engine import import_openvino; import_openvino().Core()\n"
        "from openvino.tools.ovc import telemetry_utils; print(telemetry_utils.tm.__name__)"
    )
    # Its telemetry stays silent on CI by itself.
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], check=True, env=environment, capture_output=True, text=True)
    assert done.stdout == "openvino.tools.ovc.telemetry_stub\n"
    assert not (tmp_path / "intel").exists()


def test_a_prefix_on_a_gpu_stays_with_tensorflow(monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: ["GPU:0"] if kind == "GPU" else [])
    assert choose_engine(small(keras.layers.Conv2D(4, 3)), "auto").startswith("tensorflow ")
