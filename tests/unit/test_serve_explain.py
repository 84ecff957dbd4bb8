import asyncio
import io
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from golden_examples import golden_examples, picture
from PIL import Image
from trunks import SIZE, noise, write_tuned

import rayft
from rayft.config import BatchingConfig, parse_config
from rayft.package.write import write_package
from rayft.serve.contract import RequestError
from rayft.serve.engine.explain import MAX_SIDE, build_heat_map, overlay
from rayft.serve.engine.load import load_engine


@pytest.mark.parametrize("prefix_seed", [7, None], ids=["frozen", "whole"])
def test_after_global_average_pooling_the_map_is_the_class_activation_map(tmp_path, prefix_seed):
    predictor = rayft.load(write_tuned(tmp_path / "package", "one", seed=1, prefix_seed=prefix_seed))
    image = predictor.decode(noise(5), "x")
    model = keras.saving.load_model(tmp_path / "package" / "model.keras")
    maps = keras.Model(model.inputs[0], model.get_layer("conv").output)(image[None]).numpy()[0]
    kernel = model.get_layer("logits").kernel.numpy()
    for index in range(3):
        # With averages in between, the slope of a logit by each position is the weight over their number
        # (Zhou et al. 2016, arXiv:1512.04150).
        expected = np.maximum(maps @ kernel[:, index], 0) / (maps.shape[0] * maps.shape[1])
        found = build_heat_map(predictor)(tf.constant(image[None]), tf.one_hot([index], 3)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_network_without_feature_maps_is_refused_in_words(tmp_path):
    inputs = keras.Input((*SIZE, 3))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(inputs)))
    write_package(
        tmp_path / "flat",
        model=model,
        config=parse_config({"name": "flat", "data": {"source": "x"}}),
        labels=("a", "b"),
        image_size=SIZE,
        licence="MIT",
        metrics={"accuracy": 0.5},
        dataset_fingerprint="abc",
        blocks_frozen=[],
        golden=golden_examples(model, [noise(1)], SIZE),
    )
    with pytest.raises(RequestError, match="no feature map") as caught:
        build_heat_map(rayft.load(tmp_path / "flat"))
    assert caught.value.status == 422


def test_the_engine_draws_the_asked_class_and_knows_no_other(tmp_path):
    engine = load_engine([str(write_tuned(tmp_path / "one", "one"))], batching=BatchingConfig(max_batch_size=1))

    def draw(label, content):
        return asyncio.run(engine.explain("one", None, content, label, deadline=time.monotonic() + 60))

    content = noise(3, side=40)
    best = rayft.load(tmp_path / "one").predict([content])[0].label
    assert draw(None, content) == draw(best, content)
    # Of a class that nothing speaks for, the map is empty.
    assert len({draw(label, content) for label in ("cat", "dog", "eel")}) > 1
    assert Image.open(io.BytesIO(draw("cat", content))).size == (40, 40)
    for label, wrong, status in (("cow", content, 404), ("cat", b"no picture", 422)):
        with pytest.raises(RequestError) as caught:
            draw(label, wrong)
        assert caught.value.status == status
    engine.close()


def test_the_overlay_is_hot_where_the_map_is_and_bounded_in_size():
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0] = 2.0
    pixels = np.asarray(Image.open(io.BytesIO(overlay(picture(64, (128, 128, 128)), heat))), int)
    hot, cold = pixels[2, 2], pixels[60, 60]
    assert hot[0] > hot[2] + 50
    assert cold[2] > cold[0] + 20
    assert Image.open(io.BytesIO(overlay(picture(1500), heat))).size == (MAX_SIDE, MAX_SIDE)
