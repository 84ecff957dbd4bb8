import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from golden_examples import golden_examples
from PIL import Image

import rayft
from rayft.config import parse_config
from rayft.errors import DataError, PackageError
from rayft.model.layers import worker_invariant
from rayft.package.golden import Golden, write_golden
from rayft.package.read import read_package
from rayft.package.seal import seal
from rayft.package.write import write_package
from rayft.serve.predictor import Predictor

LABELS = ("cat", "dog", "eel")


def _network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 10, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(4, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(len(LABELS)),
        ]
    )


def _golden(model, temperature=1.0):
    """Pictures of the network's own size are not resized, so the answers follow from the pixels alone."""
    pixels = np.floor(_images(3))
    logits = np.asarray(model(pixels, training=False), "float32")
    return Golden(tuple(_png(image) for image in pixels), _softmax(logits / temperature))


def _write(folder, model, **changes):
    arguments = {
        "golden": changes.get("golden") or _golden(model),
        "model": model,
        "config": parse_config({"name": "zoo", "data": {"source": "x"}}),
        "labels": LABELS,
        "image_size": (8, 10),
        "licence": "MIT",
        "metrics": {"accuracy": 0.5},
        "dataset_fingerprint": "abc",
        "blocks_frozen": ["stem"],
    }
    write_package(folder, **{**arguments, **changes})
    return folder


@pytest.fixture(scope="module")
def model():
    network = _network()
    return worker_invariant(keras.Model(network.inputs[0], network.outputs[0]))


@pytest.fixture
def package(tmp_path, model):
    return _write(tmp_path / "package", model)


def _images(count=5):
    return np.random.default_rng(0).uniform(0, 255, (count, 8, 10, 3)).astype("float32")


def _png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype("uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def _softmax(logits):
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def test_a_package_gives_the_softmax_of_the_networks_logits(package, model):
    expected = _softmax(model(_images(), training=False).numpy())
    answers = Predictor.load(package).predict_images(_images())
    np.testing.assert_allclose([answer.probabilities for answer in answers], expected, atol=1e-6)
    assert [answer.label for answer in answers] == [LABELS[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose([answer.probability for answer in answers], expected.max(axis=1), atol=1e-6)


def test_the_model_loads_in_plain_keras_without_rayft(package):
    code = (
        "import sys, keras; model = keras.saving.load_model(sys.argv[1], safe_mode=True);"
        "print(model.output_shape, 'rayft' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(package / "model.keras")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "(None, 3) False", done.stderr


def test_batches_and_single_pictures_get_the_same_answers(package):
    pictures = [_png(image) for image in _images(7)]
    predictor = rayft.load(package)
    together = predictor.predict(pictures, batch_size=3)
    # Pictures of the network's own size are not resized, so the pixels are the file's.
    plain = predictor.predict_images(np.floor(_images(7)))
    for i, picture in enumerate(pictures):
        alone = predictor.predict([picture])[0]
        np.testing.assert_allclose(alone.probabilities, together[i].probabilities, atol=1e-6)
        np.testing.assert_allclose(plain[i].probabilities, together[i].probabilities, atol=1e-6)
    assert predictor.predict([]) == []


def test_a_run_folder_and_a_uri_lead_to_the_package(tmp_path, model):
    folder = _write(tmp_path / "run" / "package", model)
    expected = Predictor.load(folder).predict_images(_images())[0].probabilities
    for place in (tmp_path / "run", f"file://{tmp_path}/run", f"file://{folder}"):
        np.testing.assert_array_equal(Predictor.load(place).predict_images(_images())[0].probabilities, expected)


@pytest.mark.parametrize("picture", [b"", b"hello", _png(np.zeros((9, 9, 3)))[:40]], ids=["empty", "text", "cut off"])
def test_a_bad_picture_is_named(package, picture):
    predictor = Predictor.load(package)
    good = _png(np.zeros((9, 9, 3)))
    with pytest.raises(DataError, match=r"^Picture number 1 (is|cannot)"):
        predictor.predict([good, picture])
    with pytest.raises(DataError, match=r"^Picture 'b\.png' (is|cannot)"):
        predictor.predict([good, picture], names=["a.png", "b.png"])


def test_a_picture_with_too_many_pixels_is_refused(tmp_path, model):
    config = parse_config({"data": {"source": "x", "max_pixels": 100}})
    predictor = Predictor.load(_write(tmp_path / "package", model, config=config))
    assert predictor.predict([_png(np.zeros((10, 10, 3)))])
    with pytest.raises(DataError, match=r"Picture number 0 has 11 x 10 pixels, more than data.max_pixels 100"):
        predictor.predict([_png(np.zeros((10, 11, 3)))])


def test_images_of_another_shape_are_refused(package):
    with pytest.raises(DataError, match=r"\[2, 8, 8, 3\]; \[n, 8, 10, 3\] is allowed"):
        Predictor.load(package).predict_images(np.zeros((2, 8, 8, 3), "float32"))


def test_the_record_says_what_made_the_package(package):
    record = json.loads((package / "package.json").read_text())
    assert record["format_version"] == 1
    assert record["labels"] == list(LABELS)
    assert record["signature"]["inputs"]["image"]["shape"] == [None, 8, 10, 3]
    assert record["preprocessing"]["image_size"] == [8, 10]
    assert parse_config(record["lineage"]["config"]).name == "zoo"
    assert record["lineage"]["versions"]["keras"] == keras.__version__
    assert (record["metrics"], record["licence"], record["blocks_frozen"]) == ({"accuracy": 0.5}, "MIT", ["stem"])


def test_float64_and_bfloat16_networks_are_packaged(tmp_path):
    for dtype in ("float64", "mixed_bfloat16"):
        inputs = keras.Input((8, 10, 3), dtype="float64" if dtype == "float64" else "float32")
        logits = keras.layers.Dense(3, dtype=dtype)(keras.layers.Flatten(dtype=dtype)(inputs))
        config = parse_config({"data": {"source": "x"}, "train": {"precision": dtype.removeprefix("mixed_")}})
        folder = _write(tmp_path / dtype, keras.Model(inputs, logits), config=config)
        probabilities = Predictor.load(folder).predict_images(_images())[0].probabilities
        assert probabilities.dtype == np.float32
        assert probabilities.sum() == pytest.approx(1, abs=1e-6)


def test_a_second_package_replaces_the_first_and_leaves_nothing_else(package, model):
    _write(package, model, licence="BSD")
    assert read_package(package).record["licence"] == "BSD"
    assert sorted(path.name for path in package.parent.iterdir()) == ["package"]


def test_a_package_that_cannot_be_written_leaves_nothing(tmp_path, model):
    with pytest.raises(ValueError, match="not JSON compliant"):
        _write(tmp_path / "package", model, metrics={"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def _cut_model(folder):
    path = folder / "model.keras"
    path.write_bytes(path.read_bytes()[:2000])


def _spoil_model(folder):
    path = folder / "model.keras"
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path.write_bytes(bytes(content))


def _cut_record(folder):
    path = folder / "package.json"
    path.write_text(path.read_text()[:50])


def _change(**entries):
    def change(folder):
        path = folder / "package.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut_model, "model.keras does not load"),
        (_spoil_model, "model.keras does not load"),
        (_cut_record, "package.json is damaged"),
        (_change(format_version=2), "format version 2; this rayft reads up to 1"),
        (_change(format_version="x"), "format_version is 'x'"),
        (_change(golden={}), "lacks a proper entry: KeyError 'tolerance'"),
        (_change(prefix={"boundary": "x"}), "names the boundary 'x', which the network lacks"),
        (_change(labels=["cat", "dog"]), "2 labels, but the network has 3 outputs"),
        (_change(preprocessing={}), "lacks a proper entry: KeyError 'image_size'"),
    ],
    ids=["cut model", "spoilt model", "cut record", "newer", "version", "golden", "boundary", "labels", "entry"],
)
def test_a_damaged_package_is_refused_although_its_seal_is_good(package, damage, message):
    damage(package)
    seal(package)
    with pytest.raises(PackageError, match=message):
        Predictor.load(package)


def test_the_temperature_divides_the_logits(tmp_path, model):
    folder = _write(tmp_path / "package", model, calibration={"temperature": 2.5}, golden=_golden(model, 2.5))
    expected = _softmax(model(_images(), training=False).numpy() / 2.5)
    answers = Predictor.load(folder).predict_images(_images())
    np.testing.assert_allclose([answer.probabilities for answer in answers], expected, atol=1e-6)
    assert read_package(folder).record["calibration"] == {"temperature": 2.5}


def test_a_temperature_can_raise_what_float32_holds_as_zero(tmp_path, model):
    far = worker_invariant(model)
    far.layers[-1].set_weights([weight * 2000 for weight in far.layers[-1].get_weights()])
    golden = golden_examples(far, [_png(image) for image in _images(3)], (8, 10), 100.0)
    plain = _softmax(far(np.floor(_images(3)), training=False).numpy())
    assert ((plain == 0) & (golden.probabilities > 1e-3)).any()
    folder = _write(tmp_path / "package", far, calibration={"temperature": 100.0}, golden=golden)
    assert Predictor.load(folder).replay_golden() < 1e-4


def test_prefix_and_suffix_apart_equal_the_whole(tmp_path, model):
    boundary = model.layers[3].name
    predictor = Predictor.load(_write(tmp_path / "a", model, boundary=boundary))
    whole = [answer.probabilities for answer in predictor.predict_images(_images())]
    apart = _softmax(predictor.suffix(predictor.prefix(_images())).numpy())
    np.testing.assert_allclose(apart, whole, atol=1e-6)
    # The head differs, the prefix does not.
    other = worker_invariant(model)
    other.layers[-1].set_weights([weight * 2 for weight in other.layers[-1].get_weights()])
    same = Predictor.load(_write(tmp_path / "b", other, boundary=boundary))
    assert same.prefix_hash == predictor.prefix_hash
    other.layers[2].set_weights([weight * 2 for weight in other.layers[2].get_weights()])
    changed = Predictor.load(_write(tmp_path / "c", other, boundary=boundary))
    assert changed.prefix_hash != predictor.prefix_hash


def test_several_labels_have_a_probability_each(tmp_path, model):
    pictures = [_png(image) for image in _images(3)]
    golden = golden_examples(model, pictures, (8, 10), multi_label=True)
    folder = _write(tmp_path / "package", model, multi_label=True, golden=golden)
    predictor = Predictor.load(folder)
    logits = model(np.floor(_images(3)), training=False).numpy()
    for answer, row in zip(predictor.predict(pictures), logits, strict=True):
        np.testing.assert_allclose(answer.probabilities, 1 / (1 + np.exp(-row)), atol=1e-6)
        assert answer.labels == tuple(label for label, logit in zip(LABELS, row, strict=True) if logit > 0)
    assert predictor.replay_golden() < 1e-6
    assert "any number for each picture" in (folder / "MODEL_CARD.md").read_text()


def test_without_a_boundary_the_suffix_is_the_network(package):
    predictor = Predictor.load(package)
    assert (predictor.prefix, predictor.prefix_hash) == (None, None)
    whole = [answer.probabilities for answer in predictor.predict_images(_images())]
    np.testing.assert_allclose(_softmax(predictor.suffix(_images()).numpy()), whole, atol=1e-6)


def test_the_golden_examples_are_replayed(package, model):
    assert Predictor.load(package).replay_golden() < 1e-6
    write_golden(package, Golden(_golden(model).inputs, np.full((3, 3), 1 / 3, "float32")))
    seal(package)
    with pytest.raises(PackageError, match=r"Golden example \d of golden.arrow differs by 0\.\d+ from evaluation"):
        Predictor.load(package).replay_golden()


def test_a_network_that_answers_otherwise_than_evaluation_is_not_packaged(tmp_path, model):
    wrong = Golden(_golden(model).inputs, np.eye(3, dtype="float32"))
    with pytest.raises(PackageError, match="differs from evaluation by"):
        _write(tmp_path / "package", model, golden=wrong)
    assert list(tmp_path.iterdir()) == []


def test_the_card_tells_metrics_with_their_interval_and_cannot_be_used_for_markup(tmp_path, model):
    folder = _write(
        tmp_path / "package",
        model,
        labels=("cat", "<b>", "eel"),
        metrics={"accuracy": 0.5, "test_accuracy": 0.9, "log_loss": 0.7},
        examples={"train": 50, "validation": 10, "test": 100},
    )
    card = (folder / "MODEL_CARD.md").read_text()
    # Wilson's interval of 5 in 10 and of 90 in 100.
    assert "| accuracy | 0.5000 | 0.2366 to 0.7634 |" in card
    assert "| test_accuracy | 0.9000 | 0.8256 to 0.9448 |" in card
    assert "| log_loss | 0.7000 | |" in card
    assert "cat, \\<b\\>, eel" in card
    assert "Licence of the initial weights: MIT" in card


def test_labels_must_match_the_outputs_when_writing(tmp_path, model):
    with pytest.raises(PackageError, match="2 labels, but the network has 3 outputs"):
        _write(tmp_path / "package", model, labels=("a", "b"))
