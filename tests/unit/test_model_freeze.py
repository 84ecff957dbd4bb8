"""Freeze depth: how it is given, and what it does to layers."""

import keras
import pytest

from rayft.errors import ModelError
from rayft.model.blocks import Block
from rayft.model.freeze import freeze, resolve_depth

BLOCKS = tuple(Block(name, ()) for name in ("stem", "block1", "block2", "block3", "top"))


@pytest.mark.parametrize(
    ("depth", "blocks_frozen"),
    [
        (0, 0),
        (3, 3),
        (5, 5),
        ("all", 5),
        ("stem", 1),
        ("block2", 3),
        ("top", 5),
        (0.0, 0),
        (1.0, 5),
        (0.29, 1),
        (0.3, 2),
        (0.5, 3),
    ],
)
def test_depth_is_a_number_a_fraction_a_name_or_all(depth, blocks_frozen):
    assert resolve_depth(depth, BLOCKS) == blocks_frozen


@pytest.mark.parametrize("depth", [6, -1, 1.5, "block9", "", "ALL"])
def test_a_wrong_depth_is_refused_with_the_allowed_ones(depth):
    with pytest.raises(ModelError) as caught:
        resolve_depth(depth, BLOCKS)
    assert str(depth) in caught.value.args[0]
    assert "0 to 5" in caught.value.args[1]
    assert "stem, block1, block2, block3, top" in caught.value.args[1]


def test_without_a_backbone_only_nothing_can_be_frozen():
    assert [resolve_depth(depth, ()) for depth in (0, 0.5, "all")] == [0, 0, 0]
    with pytest.raises(ModelError, match="0 blocks"):
        resolve_depth(1, ())


def two_blocks():
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)])
    first = Block("first", (inner,))
    dense, norm, drop = layers.Dense(4), layers.BatchNormalization(), layers.Dropout(0.5)
    for layer in (dense, norm):
        layer.build((None, 4))
    return first, Block("second", (dense, norm, drop))


def test_frozen_blocks_have_no_trainable_weights_even_in_nested_models():
    first, second = two_blocks()
    freeze((first, second), 1, batch_norm_frozen=False)
    assert first.layers[0].trainable_weights == []
    assert [len(layer.trainable_weights) for layer in second.layers] == [2, 2, 0]
    assert first.layers[0].layers[2].rate == 0
    assert second.layers[2].rate == 0.5


def test_batch_norm_of_trainable_blocks_can_stay_frozen():
    first, second = two_blocks()
    freeze((first, second), 0, batch_norm_frozen=True)
    assert not first.layers[0].layers[1].trainable
    assert not second.layers[1].trainable
    assert len(first.layers[0].trainable_weights) == 2
    assert len(second.layers[0].trainable_weights) == 2


def test_freezing_less_afterwards_thaws():
    first, second = two_blocks()
    freeze((first, second), 2, batch_norm_frozen=False)
    freeze((first, second), 0, batch_norm_frozen=False)
    assert len(first.layers[0].trainable_weights) == 4
    assert len(second.layers[1].trainable_weights) == 2
