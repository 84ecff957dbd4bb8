"""Blocks and cuts: own graphs, and one network of each family of keras.applications."""

import keras
import numpy as np
import pytest

from rayft.model.applications import build_application
from rayft.model.blocks import boundary, list_blocks, split_model
from rayft.model.layers import worker_invariant

# name: (side in pixels, first block, a block in the middle, last block); the slow ones come second.
FAMILIES = {
    "VGG16": (32, "block1", "block3", "block5"),
    "MobileNet": (32, "stem", "conv_6", "conv_13"),
    "MobileNetV2": (32, "stem", "block_6", "top"),
    "MobileNetV3Small": (32, "stem", "expanded_conv_5", "top"),
    "ConvNeXtTiny": (32, "stem", "downsampling_block_1", "stage_3_block_2"),
    "EfficientNetB0": (32, "stem", "block4a", "top"),
    "EfficientNetV2B0": (32, "stem", "block5b", "top"),
    "Xception": (71, "block1", "block7", "block14"),
}
SLOW_FAMILIES = {
    "ResNet50": (32, "stem", "conv3_block4", "conv5_block3"),
    "ResNet50V2": (32, "stem", "conv3_block4", "conv5_block3"),
    "InceptionV3": (75, "stem", "mixed4", "mixed10"),
    "DenseNet121": (32, "stem", "pool3", "conv5_block16"),
    "NASNetMobile": (32, "stem", "cell_5", "cell_12"),
}


def assert_closed(model, blocks):
    """Every input of a layer lies in the same block or an earlier one; all layers are in one block."""
    rank = {id(layer): index for index, block in enumerate(blocks) for layer in block.layers}
    assert len(rank) == sum(len(block.layers) for block in blocks)
    assert set(rank) == {id(layer) for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)}
    reached = {}
    for operation in model.operations:
        for node in operation._inbound_nodes:
            before = [reached.get(id(parent.operation), -1) for parent in node.parent_nodes]
            reached[id(operation)] = rank.get(id(operation), max(before, default=-1))
            assert max(before, default=-1) <= reached[id(operation)], operation.name


def assert_split_is_exact(model, tensor, shape):
    image = np.random.default_rng(0).uniform(0, 255, (2, *shape)).astype("float32")
    prefix, suffix = split_model(model, tensor)
    whole = model(image).numpy()
    assert np.abs(whole).max() > 0
    np.testing.assert_array_equal(suffix(prefix(image)).numpy(), whole)
    assert {id(w) for w in [*prefix.weights, *suffix.weights]} == {id(w) for w in model.weights}


@pytest.mark.parametrize("name", [*FAMILIES, *SLOW_FAMILIES])
def test_each_family_lists_its_blocks_and_splits_exactly(name):
    side, first, middle, last = {**FAMILIES, **SLOW_FAMILIES}[name]
    model = worker_invariant(build_application(name, (side, side, 3), "none"))
    blocks = list_blocks(model)
    names = [block.name for block in blocks]
    assert len(blocks) >= 3
    assert len(set(names)) == len(names)
    assert (names[0], names[-1]) == (first, last)
    assert_closed(model, blocks)
    assert boundary(model, blocks, len(blocks)) is model.outputs[0]
    depth = names.index(middle) + 1
    if name == "NASNetMobile":
        # Each cell reads two cells before it.
        assert boundary(model, blocks, depth) is None
        depth = 1
    assert_split_is_exact(model, boundary(model, blocks, depth), (side, side, 3))


def test_vgg16_has_its_five_blocks_with_the_normalisation_in_the_first():
    blocks = list_blocks(build_application("VGG16", (32, 32, 3), "none"))
    assert [(block.name, len(block.layers)) for block in blocks] == [
        ("block1", 4),
        ("block2", 3),
        ("block3", 4),
        ("block4", 4),
        ("block5", 4),
    ]
    assert [layer.name for layer in blocks[0].layers] == ["normalise", "block1_conv1", "block1_conv2", "block1_pool"]


def own_graph():
    layers = keras.layers
    image = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.BatchNormalization(name="input_norm")(x)
    x = layers.Conv2D(4, 3, padding="same", name="a")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="a_norm")(x))
    left = layers.Conv2D(4, 3, padding="same", name="left")(x)
    right = layers.Conv2D(4, 1, name="right")(x)
    x = layers.MaxPooling2D()(keras.ops.relu(left + right + x))
    return keras.Model(image, layers.Conv2D(2, 1, name="z")(x))


def test_an_own_graph_has_a_block_for_each_weighted_part_between_cuts():
    model = own_graph()
    blocks = list_blocks(model)
    assert [block.name for block in blocks] == ["a", "left", "z"]
    assert [layer.name for layer in blocks[0].layers][1:4:2] == ["input_norm", "a_norm"]
    assert boundary(model, blocks, 0) is None
    assert [boundary(model, blocks, depth).shape for depth in (1, 2, 3)] == [
        (None, 8, 8, 4),
        (None, 4, 4, 4),
        (None, 4, 4, 2),
    ]
    assert_closed(model, blocks)
    for depth in (1, 2):
        assert_split_is_exact(model, boundary(model, blocks, depth), (8, 8, 3))


def test_no_cut_separates_two_calls_of_one_layer():
    layers = keras.layers
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    image = keras.Input((8, 8, 3))
    x = shared(layers.Conv2D(3, 1, name="a")(image))
    x = shared(layers.Conv2D(3, 1, name="between")(x))
    model = keras.Model(image, layers.Conv2D(3, 1, name="z")(x))
    blocks = list_blocks(model)
    assert [[layer.name for layer in block.layers] for block in blocks] == [["a"], ["shared", "between"], ["z"]]
    assert_closed(model, blocks)
    for depth in (1, 2):
        assert_split_is_exact(model, boundary(model, blocks, depth), (8, 8, 3))


def test_a_boundary_can_be_found_in_a_model_that_continues_the_backbone():
    model = own_graph()
    blocks = list_blocks(model)
    longer = keras.Model(model.inputs[0], keras.layers.GlobalAveragePooling2D()(model.outputs[0]))
    assert boundary(longer, blocks, 3) is model.outputs[0]
    assert_split_is_exact(longer, boundary(longer, blocks, 2), (8, 8, 3))


def test_a_model_without_weights_has_no_blocks():
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, keras.layers.Rescaling(2.0)(image))
    assert list_blocks(model) == ()
    assert boundary(model, (), 0) is None
