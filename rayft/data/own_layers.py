"""Keras preprocessing layers and functions of the user's own as augmentation."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from rayft.config import LayerConfig
from rayft.errors import ConfigError
from rayft.imports import load_object

# (image float32 [H, W, C] in 0..255, key [2]) -> the same.
Apply = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_MIXING = ("MixUp", "CutMix")
_PROOF_SEEDS = 3
# TensorFlow marks these as stateful for their side effects or their bodies; bodies are looked at by themselves.
_HARMLESS = {"Assert", "Case", "If", "PartitionedCall", "Placeholder", "StatefulPartitionedCall", "While"}
_OPAQUE = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def apply_layers(image: tf.Tensor, key: tf.Tensor, layers: tuple[LayerConfig, ...]) -> tf.Tensor:
    """Apply layers in order.

    Args:
        image: float32 [H, W, C] in 0..255, static.
        key: Seed [2]; all their draws come from it.
        layers: Each has to give the same picture for the same key; what does not is refused.

    Raises:
        ConfigError: A layer is unknown, or does not keep the rule; names it.
    """
    with ThreadPoolExecutor(1) as elsewhere:
        for index, layer in enumerate(layers):
            # In a thread of its own no graph is being traced, so that the layer and its variables belong to none.
            config = json.dumps(layer.config, sort_keys=True)
            apply = elsewhere.submit(_proven_layer, layer.name, config, tuple(image.shape)).result()
            image = apply(image, tf.random.fold_in(key, index, alg="philox"))
    return image


def make_layer(name: str, config: str) -> Apply:
    """Return a layer or function as a function of picture and key.

    Args:
        name: Of keras.layers, or module:function.
        config: Its arguments, JSON.

    Raises:
        ConfigError: There is no such layer, or it does not take these arguments.
    """
    arguments = json.loads(config)
    where = "data.augment.layers"
    if ":" in name:
        return functools.partial(load_object(name, purpose=where), **arguments)
    kind = getattr(keras.layers, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, keras.layers.Layer)):
        raise ConfigError(
            f"{where} names {name!r}; keras.layers has no such layer.",
            "Name a preprocessing layer such as RandomZoom, or module:function.",
        )
    if name in _MIXING:
        raise ConfigError(
            f"{where} names {name!r}, which mixes the examples that happen to be in one batch of one worker.",
            f"Remove it and set data.augment.{name.lower()}.",
        )
    try:
        layer = kind(**arguments)
    # Keras checks arguments in many ways.
    except (TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise ConfigError(f"{where}: {name} refuses {config}: {reason}", "Correct its config.") from None
    return functools.partial(_call_layer, layer, _take_over_seeds(layer))


@functools.lru_cache(maxsize=64)
def require_stateless(name: str, config: str, shape: tuple[int, int, int]) -> None:
    """Refuse a layer whose result depends on more than picture and key.

    Its graph may hold no variable, no random operation with a state and no Python code; two graphs of it have to
    give equal pictures of the same shape.

    Raises:
        ConfigError: Names the layer and what breaks the rule.
    """
    spec = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec([2], tf.int64))
    graphs = []
    for _ in range(2):
        apply = make_layer(name, config)
        try:
            graphs.append(tf.function(apply, autograph=False).get_concrete_function(*spec))
        # The user's own code may raise anything.
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise ConfigError(
                f"data.augment.layers: {name} does not run on pictures of shape {list(shape)} in a graph: "
                f"{type(error).__name__}: {reason}",
                "Use a layer of pictures; own functions take (image [H, W, C], seed [2]) and use TensorFlow alone.",
            ) from error
    found = _breaks_the_rule(graphs[0].graph)
    output = graphs[0].structured_outputs
    if found is None and not (isinstance(output, tf.Tensor) and output.shape == tf.TensorShape(shape)):
        found = f"turns the shape {list(shape)} into {getattr(output, 'shape', type(output).__name__)}"
    if found is None:
        picture = tf.constant(np.random.default_rng(0).uniform(0, 255, shape), tf.float32)
        keys = [tf.constant([seed, 1], tf.int64) for seed in range(_PROOF_SEEDS)]
        if any(not np.array_equal(graphs[0](picture, key), graphs[1](picture, key)) for key in keys):
            found = "gives different pictures for the same seed"
    if found is not None:
        raise ConfigError(
            f"data.augment.layers: {name} {found}; a picture may depend on seed, epoch and example alone, and "
            "keeps its shape.",
            "Remove it, or write module:function that draws with tf.random.stateless_* from the seed it is given.",
        )


def _proven_layer(name: str, config: str, shape: tuple[int, int, int]) -> Apply:
    require_stateless(name, config, shape)
    return make_layer(name, config)


class _KeySeeds(keras.random.SeedGenerator):
    """Gives seeds that follow from one key, instead of from a variable."""

    def __init__(self) -> None:
        self.key: tf.Tensor | None = None
        self.count = 0

    def start(self, key: tf.Tensor) -> None:
        self.key, self.count = key, 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        self.count += 1
        return tf.cast(tf.random.fold_in(self.key, self.count, alg="philox"), tf.int32)

    def get_config(self) -> dict[str, Any]:
        return {}


def _take_over_seeds(layer: keras.layers.Layer) -> _KeySeeds:
    """Let the layer, with those inside it, draw from one source of seeds."""
    seeds = _KeySeeds()
    for each in layer._flatten_layers():
        for attribute, value in list(vars(each).items()):
            if isinstance(value, keras.random.SeedGenerator):
                setattr(each, attribute, seeds)
    return seeds


def _call_layer(layer: keras.layers.Layer, seeds: _KeySeeds, image: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    seeds.start(key)
    result = layer(image[None], training=True)[0]
    return tf.clip_by_value(tf.cast(result, tf.float32), 0.0, 255.0)


def _breaks_the_rule(graph: tf.Graph) -> str | None:
    """Say what in a graph makes its result depend on more than its inputs, if anything does."""
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    for node in nodes:
        if node.op in _OPAQUE:
            return f"calls Python code ({node.op}) while it runs"
        # Functions of the graph are nodes as well, and no operations.
        kind = op_def_registry.get(node.op)
        if kind is not None and kind.is_stateful and node.op not in _HARMLESS:
            return f"keeps a state (operation {node.op})"
    return None
