"""Networks of keras.applications: names, preprocessing, weights files."""

import importlib
import inspect

import keras
import numpy as np
import pytest

from rayft.errors import ModelError
from rayft.model import applications
from rayft.model.applications import APPLICATIONS, build_application, find_application

# One network of each module that scales its input outside the graph.
OUTSIDE = {
    "DenseNet121": "densenet",
    "InceptionResNetV2": "inception_resnet_v2",
    "InceptionV3": "inception_v3",
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "NASNetMobile": "nasnet",
    "ResNet50": "resnet",
    "ResNet50V2": "resnet_v2",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
    "Xception": "xception",
}


def pictures(*shape):
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def test_the_table_holds_every_network_of_keras():
    assert set(APPLICATIONS) == {name for name, thing in vars(keras.applications).items() if inspect.isfunction(thing)}


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("VGG16", "VGG16"),
        ("vgg16", "VGG16"),
        ("mobilenet_v2", "MobileNetV2"),
        ("MobileNetV2", "MobileNetV2"),
        ("efficientnetb0", "EfficientNetB0"),
        ("efficientnet_v2_b0", "EfficientNetV2B0"),
        ("resnet50_v2", "ResNet50V2"),
        ("convnext_tiny", "ConvNeXtTiny"),
        ("nasnet-mobile", "NASNetMobile"),
    ],
)
def test_names_are_found_whatever_their_case_and_underscores(given, name):
    assert find_application(given) == name


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ModelError, match=r"'mobilnet_v2'.*mobilenetv2"):
        find_application("mobilnet_v2")
    with pytest.raises(ModelError, match="efficientnetlite0"):
        find_application("efficientnet_lite_0x")


@pytest.mark.parametrize("name", OUTSIDE)
def test_preprocessing_in_the_graph_equals_that_of_keras(name):
    module = importlib.import_module(f"keras.applications.{OUTSIDE[name]}")
    image = keras.Input((8, 8, 3))
    graph = keras.Model(image, applications._preprocess(image, APPLICATIONS[name].preprocessing, 3))
    batch = pictures(2, 8, 8, 3)
    # preprocess_input changes its argument in place.
    np.testing.assert_allclose(graph(batch).numpy(), module.preprocess_input(batch.copy()), atol=1e-5)


def test_only_networks_with_their_own_preprocessing_are_left_without():
    built_in = {name for name, facts in APPLICATIONS.items() if facts.preprocessing == "built_in"}
    families = ("ConvNeXt", "EfficientNet", "MobileNetV3")
    assert built_in == {name for name in APPLICATIONS if name.startswith(families)}


def test_a_whole_network_scales_first_and_loads_in_safe_mode(tmp_path):
    model = build_application("VGG16", (32, 32, 3), "none")
    model.save(tmp_path / "vgg.keras")
    model = keras.saving.load_model(tmp_path / "vgg.keras", safe_mode=True)
    plain = keras.applications.VGG16(include_top=False, weights=None, input_shape=(32, 32, 3))
    plain.set_weights(model.get_weights())
    batch = pictures(2, 32, 32, 3)
    expected = plain(keras.applications.vgg16.preprocess_input(batch.copy())).numpy()
    np.testing.assert_allclose(model(batch).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".keras"])
def test_weights_are_read_from_a_local_file(tmp_path, ending):
    source = keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(32, 32, 3))
    path = str(tmp_path / f"small{ending}")
    (source.save_weights if ending == ".weights.h5" else source.save)(path)
    model = build_application("MobileNetV3Small", (32, 32, 3), path)
    batch = pictures(1, 32, 32, 3)
    np.testing.assert_array_equal(model(batch).numpy(), source(batch).numpy())


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_weights_of_another_network_are_refused(tmp_path, ending):
    image = keras.Input((32, 32, 3))
    other = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
    path = str(tmp_path / f"other{ending}")
    (other.save_weights if ending == ".weights.h5" else other.save)(path)
    with pytest.raises(ModelError, match="does not hold the weights of vgg16"):
        build_application("VGG16", (32, 32, 3), path)


def test_published_efficientnet_weights_are_normalised_by_mean_and_standard_deviation(tmp_path):
    network = keras.applications.EfficientNetB0(include_top=False, weights=None, input_shape=(32, 32, 3))
    norm = next(layer for layer in network.layers if isinstance(layer, keras.layers.Normalization))
    # Keras' file holds the standard deviation where the variance belongs.
    norm.set_weights([np.float32(applications.TORCH_MEAN), np.float32(applications.TORCH_STD), np.array(0)])
    network.save_weights(tmp_path / "b0.weights.h5")
    model = build_application("EfficientNetB0", (32, 32, 3), str(tmp_path / "b0.weights.h5"))
    norm = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    scaled = keras.Model(model.inputs[0], [node for node in norm._inbound_nodes][-1].output_tensors[0])
    batch = pictures(2, 32, 32, 3)
    expected = (batch / 255 - applications.TORCH_MEAN) / applications.TORCH_STD
    np.testing.assert_allclose(scaled(batch).numpy(), expected, atol=1e-5)


def test_without_a_connection_the_remedy_is_named(monkeypatch):
    # Port 9 discards; nothing listens there, so the download is refused at once.
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(ModelError, match=r"could not be downloaded") as caught:
        build_application("MobileNetV3Small", (32, 32, 3), "imagenet")
    assert "model.weights to none" in caught.value.args[1]
