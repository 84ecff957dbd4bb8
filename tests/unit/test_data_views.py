import keras
import numpy as np
import pytest
import tensorflow as tf
from golden_examples import golden_examples, picture

from rayft.config import parse_config
from rayft.data.augment import augment
from rayft.data.views import average_views, make_views, tta_record
from rayft.learn.step import Task
from rayft.model.network import build_network
from rayft.package.read import read_package
from rayft.package.write import write_package
from rayft.serve.predictor import Predictor

IMAGES = tf.constant(np.random.default_rng(0).uniform(0, 255, (3, 8, 8, 3)), tf.float32)


def make_config(tta, **augmentation):
    return parse_config(
        {
            "data": {"source": "x", "image_size": 8, "augment": augmentation},
            "model": {"backbone": "none", "pooling": "flatten", "dropout": 0},
            "evaluate": {"tta": tta},
        }
    )


def views(tta, **augmentation):
    return make_views(IMAGES, tta_record(make_config(tta, **augmentation)))


def test_no_view_but_the_picture_unless_asked_for():
    assert tta_record(make_config({})) is None
    assert average_views(lambda images: images, IMAGES, None) is IMAGES


def test_a_flip_adds_the_mirrored_picture():
    whole, mirrored = views({"flip": True})
    np.testing.assert_array_equal(whole, IMAGES)
    np.testing.assert_array_equal(mirrored, IMAGES.numpy()[:, :, ::-1])


def test_five_crops_are_the_corners_and_the_middle():
    ramp = tf.tile(tf.range(9.0)[None, None, :, None], [1, 9, 1, 3])
    record = tta_record(make_config({"crops": 5, "crop_scale": 0.5, "flip": True}))
    crops = make_views(ramp, record)
    assert len(crops) == 10
    # Of columns 0..8, half is 4 wide, spread over 9 pixels.
    first_columns = [float(crop[0, 0, 0, 0]) for crop in crops[:5]]
    np.testing.assert_allclose(first_columns, [0, 4, 0, 4, 2], atol=1e-5)
    np.testing.assert_allclose(crops[4][0, 3, :, 0], 2 + np.arange(9) / 2, atol=1e-5)
    np.testing.assert_allclose(crops[9], crops[4][:, :, ::-1])


def test_drawn_views_follow_from_seed_and_view_alone():
    config = make_config({"views": 2, "seed": 5}, rotate=30, random_erasing=1.0, mixup=0.2)
    record = tta_record(config)
    drawn = make_views(IMAGES, record)[1:]
    # Erasing is left out: it would hide what is asked about.
    plain = config.data.augment.for_views()
    assert (plain.rotate, plain.random_erasing, plain.mixup) == (30, 0, 0)
    for view, images in enumerate(drawn):
        for image, source in zip(images, IMAGES, strict=True):
            want = augment(source, tf.constant([5, view], tf.int64), plain)
            np.testing.assert_allclose(image, want, atol=1e-3)
    alone = make_views(IMAGES[1:2], record)[1]
    np.testing.assert_allclose(alone[0], drawn[0][1], atol=1e-3)


def test_a_drawn_view_may_be_a_random_resized_crop():
    drawn = views({"views": 3}, random_resized_crop={"scale": (0.2, 0.5)})[1:]
    assert {tuple(view.shape) for view in drawn} == {(3, 8, 8, 3)}
    assert not np.allclose(drawn[0], drawn[1])


def test_the_answer_is_the_mean_of_the_views_probabilities():
    record = tta_record(make_config({"flip": True, "crops": 5}))
    answer = lambda images: tf.nn.softmax(images[:, 0, 0, :] / 50)  # noqa: E731
    want = np.mean([answer(view) for view in make_views(IMAGES, record)], axis=0)
    np.testing.assert_allclose(average_views(answer, IMAGES, record), want, rtol=1e-5)


def test_the_package_serves_what_was_evaluated(tmp_path):
    config = make_config({"flip": True, "crops": 5, "views": 2}, rotate=20, brightness=0.1)
    keras.utils.set_random_seed(3)
    network = build_network(config, 2)
    for weights in network.model.trainable_variables:
        weights.assign(np.random.default_rng(1).normal(size=weights.shape) / 500)
    task = Task(config, network, total_steps=1)
    evaluated = tf.nn.softmax(tf.function(task.answer)({"image": IMAGES})).numpy()
    write_package(
        tmp_path / "package",
        model=network.model,
        config=config,
        labels=("a", "b"),
        image_size=(8, 8),
        licence="none",
        metrics={},
        dataset_fingerprint="0" * 64,
        blocks_frozen=[],
        golden=golden_examples(network.model, [picture()], (8, 8), views=tta_record(config)),
        boundary="head_flatten",
    )
    predictor = Predictor(read_package(tmp_path / "package"))
    served = np.stack([each.probabilities for each in predictor.predict_images(IMAGES.numpy())])
    np.testing.assert_allclose(served, evaluated, atol=1e-5)
    plain = tf.nn.softmax(network.model(IMAGES)).numpy()
    assert np.abs(served - plain).max() > 1e-3
    assert predictor.replay_golden() < 1e-5
    # What answers from activations would leave the views out.
    assert (predictor.prefix, predictor.prefix_hash) == (None, None)
    np.testing.assert_allclose(tf.nn.softmax(predictor.suffix(IMAGES)), evaluated, atol=1e-5)


@pytest.mark.parametrize(
    ("tta", "augmentation", "found"),
    [
        ({"views": 2}, {}, "views is 2, but data.augment has nothing to draw them with"),
        ({"views": 2}, {"mixup": 0.2}, "nothing to draw them with"),
        ({"crop_scale": 0.5}, {}, "crop_scale is 0.5, but crops is 1"),
        ({"views": 2}, {"layers": [{"name": "own:f"}]}, "a package cannot hold own:f"),
    ],
)
def test_views_that_cannot_be_are_refused(tta, augmentation, found):
    with pytest.raises(Exception, match=found):
        make_config(tta, **augmentation)
