import dataclasses
import hashlib
import io
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden_examples import golden_examples
from PIL import Image

from rayft.cli import main
from rayft.config import parse_config
from rayft.data.views import tta_record
from rayft.errors import ExportError, RunFailed
from rayft.export.export import export
from rayft.model.layers import worker_invariant
from rayft.package.golden import Golden
from rayft.package.read import read_package
from rayft.package.write import write_package
from rayft.registry.registry import Registry
from rayft.serve.predictor import Predictor

LABELS = ("cat", "dog", "eel")
SIZE = (8, 10)
NAMES = {"saved_model": "model", "onnx": "model.onnx", "litert": "model.tflite"}


def _picture(seed: int, kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (13, 17, 3), "uint8")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


PICTURES = [_picture(0), _picture(1, "JPEG"), _picture(2, "WEBP")]


def _network(dtype: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(0)
    entry = keras.Input((*SIZE, 3))
    x = keras.layers.Rescaling(1 / 255, dtype=dtype)(entry)
    x = keras.layers.Conv2D(4, 3, dtype=dtype)(x)
    x = keras.layers.BatchNormalization(beta_initializer="ones", dtype=dtype)(x)
    x = keras.layers.Activation("relu", dtype=dtype)(x)
    logits = keras.layers.Dense(3, kernel_initializer="random_normal", dtype=dtype)(keras.layers.Flatten()(x))
    # Far from even, so that a lost temperature or a second softmax shows.
    model = keras.Model(entry, logits)
    model.layers[-1].set_weights([weight * 8 for weight in model.layers[-1].get_weights()])
    return worker_invariant(model)


def _package(folder, *, network=None, config=None, temperature=2.5, multi_label=False, golden=None):
    network = network or _network()
    settings = parse_config({"name": "zoo", "data": {"source": "x"}, **(config or {})})
    answers = golden_examples(network, PICTURES, SIZE, temperature, multi_label=multi_label, views=tta_record(settings))
    write_package(
        folder,
        model=network,
        config=settings,
        labels=LABELS,
        image_size=SIZE,
        licence="MIT",
        metrics={"accuracy": 0.5},
        dataset_fingerprint="abc",
        blocks_frozen=[],
        golden=golden or answers,
        calibration={"temperature": temperature},
        multi_label=multi_label,
    )
    return read_package(folder)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return _package(tmp_path_factory.mktemp("export") / "package")


def _run(kind, path, images):
    """Answer decoded pictures with the format's own runtime, by the names that the record gives."""
    if kind == "saved_model":
        return tf.saved_model.load(str(path)).signatures["images"](image=tf.constant(images))["probabilities"].numpy()
    if kind == "onnx":
        import onnxruntime

        return onnxruntime.InferenceSession(str(path)).run(["probabilities"], {"image": images})[0]
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner("serving_default")(image=images)["probabilities"]


@pytest.mark.parametrize("kind", NAMES)
def test_what_is_exported_answers_other_pictures_as_the_predictor_does(tmp_path, package, kind):
    path = tmp_path / "out" / NAMES[kind]
    record = export(package, kind, path)
    images = np.random.default_rng(5).uniform(0, 255, (4, *SIZE, 3)).astype("float32")
    expected = np.stack([answer.probabilities for answer in Predictor(package).predict_images(images)])
    assert np.ptp(expected) > 0.2
    for count in (4, 1):
        np.testing.assert_allclose(_run(kind, path, images[:count]), expected[:count], atol=1e-6)
    if kind == "saved_model":
        _check_encoded(path, package)
    assert record["golden"]["difference"] < 1e-6
    assert (record["golden"]["examples"], record["golden"]["same_best_label"]) == (3, 3)
    beside = path / "export.json" if kind == "saved_model" else path.with_name(f"{path.name}.export.json")
    assert json.loads(beside.read_text()) == record
    assert (record["labels"], record["source"]["identity"]) == (list(LABELS), package.identity)
    assert record["preprocessing"]["image_size"] == list(SIZE)
    root = path if kind == "saved_model" else path.parent
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((root / name).read_bytes()).hexdigest() == digest
    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, beside.name}


def _check_encoded(path, package):
    """TensorFlow Serving turns {"b64": ...} into bytes; one input can be given without its name."""
    serving = tf.saved_model.load(str(path)).signatures["serving_default"]
    assert serving.structured_input_signature[1] == {"image_bytes": tf.TensorSpec((None,), tf.string, "image_bytes")}
    answers = serving(image_bytes=tf.constant(PICTURES[::-1]))["probabilities"].numpy()
    expected = np.stack([answer.probabilities for answer in Predictor(package).predict(PICTURES[::-1])])
    np.testing.assert_allclose(answers, expected, atol=1e-6)


def test_an_onnx_file_says_itself_what_it_takes(tmp_path, package):
    import onnxruntime

    export(package, "onnx", tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    said = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert said["labels"] == list(LABELS)
    assert "already decoded" in said["inputs"][0]["is"]
    assert session.get_inputs()[0].shape == ["n", *SIZE, 3]


@pytest.mark.parametrize("kind", ["onnx", "litert"])
def test_several_labels_and_mirrored_views_are_exported(tmp_path, kind):
    mirror = {"evaluate": {"tta": {"flip": True}}}
    several = _package(tmp_path / "several", config=mirror, multi_label=True)
    record = export(several, kind, tmp_path / "model")
    # Other runtimes round the sigmoid of a far logit coarsely, and its logarithm shows that.
    assert record["golden"]["difference"] < 5e-5
    # Neither the mirrored view, nor the temperature, nor the sigmoid is without effect.
    for config, temperature, multi_label in ((None, 2.5, True), (mirror, 1.0, True), (mirror, 2.5, False)):
        other = golden_examples(
            _network(),
            PICTURES,
            SIZE,
            temperature,
            multi_label=multi_label,
            views=config and several.record["preprocessing"]["tta"],
        )
        assert np.abs(other.probabilities - several.golden.probabilities).max() > 1e-3


def test_a_bfloat16_network_is_exported_in_float32(tmp_path):
    half = _package(tmp_path / "half", network=_network("mixed_bfloat16"), config={"train": {"precision": "bfloat16"}})
    record = export(half, "onnx", tmp_path / "model.onnx")
    assert 0 < record["golden"]["difference"] <= record["golden"]["tolerance"]


def test_views_that_a_format_cannot_express_are_refused(tmp_path):
    cropped = _package(tmp_path / "cropped", config={"evaluate": {"tta": {"crops": 5}}})
    with pytest.raises(ExportError, match="test-time augmentation by crops or random views, which litert cannot"):
        export(cropped, "litert", tmp_path / "out" / "model.tflite")
    assert not (tmp_path / "out").exists()
    assert export(cropped, "saved_model", tmp_path / "model")["golden"]["difference"] < 1e-6


@pytest.mark.parametrize("kind", NAMES)
def test_an_export_that_differs_from_the_package_is_refused_and_removed(tmp_path, package, kind):
    shifted = package.golden.probabilities + np.float32([[2e-4, 0, 0]])
    other = dataclasses.replace(package, golden=Golden(package.golden.inputs, shifted))
    with pytest.raises(RunFailed, match=r"differs from the package by 0.0002 on its golden pictures; 1e-04 is allowed"):
        export(other, kind, tmp_path / "out" / NAMES[kind])
    assert list((tmp_path / "out").iterdir()) == []


def test_a_network_that_does_not_convert_is_refused_with_the_reason(tmp_path):
    entry = keras.Input((*SIZE, 3))
    # LiteRT has no determinant.
    determinant = keras.ops.det(keras.ops.transpose(entry[:, :, :8, :], (0, 3, 1, 2)) / 255)
    odd = _package(tmp_path / "odd", network=keras.Model(entry, keras.layers.Dense(3)(determinant)))
    with pytest.raises(RunFailed, match=r"does not convert to litert: \w+"):
        export(odd, "litert", tmp_path / "out" / "model.tflite")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("quantize", ["float16", "int8-dynamic"])
def test_a_quantized_export_states_its_difference(tmp_path, package, quantize):
    record = export(package, "litert", tmp_path / "model.tflite", quantize)
    assert record["golden"]["tolerance"] is None
    assert 0 < record["golden"]["difference"] < 0.2
    images = np.random.default_rng(5).uniform(0, 255, (2, *SIZE, 3)).astype("float32")
    expected = np.stack([answer.probabilities for answer in Predictor(package).predict_images(images)])
    assert np.abs(_run("litert", tmp_path / "model.tflite", images) - expected).max() < 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pickle", "x"), "The format is 'pickle'; saved_model, onnx, litert are allowed"),
        (("litert", "x", "int4"), "quantize is 'int4'; float16, int8-dynamic are allowed"),
        (("onnx", "x", "float16"), "quantize is 'float16', but onnx has no quantization"),
        (("onnx", "taken"), "taken' exists"),
        (("onnx", "beside"), "beside.export.json' exists"),
    ],
)
def test_what_cannot_be_asked_for_is_named(tmp_path, package, arguments, message):
    (tmp_path / "taken").touch()
    (tmp_path / "beside.export.json").touch()
    kind, name, *rest = arguments
    with pytest.raises(ExportError, match=message):
        export(package, kind, tmp_path / name, *rest)


def test_a_missing_extra_is_named(tmp_path, package, monkeypatch):
    # None makes the import system say that there is no such module.
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ExportError, match="needs tf2onnx, which does not import") as caught:
        export(package, "onnx", tmp_path / "model.onnx")
    assert "pip install 'rayft[export]'" in caught.value.args[1]


def test_the_command_exports_a_version_of_the_registry(tmp_path, package, capfd):
    Registry.open(str(tmp_path / "registry")).register(package.folder, "zoo")
    path = tmp_path / "model.tflite"
    options = ["--format", "litert", "-o", str(path), "--registry", str(tmp_path / "registry"), "--json"]
    assert main(["models", "export", "zoo@1", *options]) == 0
    out, err = capfd.readouterr()
    said = json.loads(out)
    assert (said["source"]["model"], said["source"]["version"], said["path"]) == ("zoo", 1, str(path))
    assert err == ""
    assert main(["models", "export", str(package.folder), *options]) == 2
    assert f"error: '{path}' exists." in capfd.readouterr().err
