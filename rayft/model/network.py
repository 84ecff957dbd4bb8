"""The whole network of a run."""

from __future__ import annotations

import collections
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from rayft.config import AdapterConfig, RunConfig
from rayft.model.adapter import add_adapters
from rayft.model.backbone import build_backbone, input_size, licence_of
from rayft.model.blocks import Block, boundary, list_blocks, split_model
from rayft.model.freeze import freeze
from rayft.model.head import add_head
from rayft.model.layers import worker_invariant
from rayft.model.phases import Phase, list_phases

POLICIES = {
    "float32": "float32",
    "float64": "float64",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


@dataclass(frozen=True, eq=False)
class Network:
    """A backbone with its head, frozen as the config says.

    Attributes:
        model: Maps pictures, float [b, H, W, C] in 0..255, to logits [b, classes].
        blocks: The backbone's blocks in input order.
        phases: The parts of the run, which differ in how many blocks are frozen.
        phase: Index of the one that the model is in.
        frozen_depth: How many blocks are frozen in it.
        boundary: KerasTensor of ``model`` between the frozen part and the rest; None when nothing is frozen
            or data crosses there in several tensors. Of a wholly frozen backbone, the pooled features.
        image_size: (height, width), pixels.
        licence: Licence of the initial weights.
        pretrained: Whether these are not random.
        adapter: What alone trains in the blocks that are not frozen, where they have adapters.
        fixed: Ids of the weights that stay as they are in every phase.
    """

    model: keras.Model
    blocks: tuple[Block, ...]
    frozen_depth: int
    boundary: Any | None
    image_size: tuple[int, int]
    licence: str
    phases: tuple[Phase, ...]
    phase: int = 0
    pretrained: bool = True
    adapter: AdapterConfig | None = None
    fixed: frozenset[int] = frozenset()

    def at(self, phase: int) -> Network:
        """Put the one model that all phases share into a phase; networks returned earlier are then out of date."""
        chosen = self.phases[phase]
        freeze(self.blocks, chosen.depth, not self.trains_batch_norm(chosen), self.adapter)
        return replace(
            self, phase=phase, frozen_depth=chosen.depth, boundary=find_boundary(self.model, self.blocks, chosen.depth)
        )

    def trains_batch_norm(self, phase: Phase) -> bool:
        """Whether BatchNormalization of unfrozen blocks normalises by, and keeps, statistics of the batches."""
        frozen = phase.batch_norm == "frozen" or (phase.batch_norm == "auto" and self.pretrained)
        return not frozen and self.adapter is None

    def in_last_phase(self) -> Network:
        """Describe the model as its last phase sees it; unlike ``at``, leaves what trains as it is."""
        last = len(self.phases) - 1
        depth = self.phases[last].depth
        tensor = find_boundary(self.model, self.blocks, depth)
        return replace(self, phase=last, frozen_depth=depth, boundary=tensor)

    @property
    def boundary_name(self) -> str | None:
        """Name of the layer or operation whose output is the boundary; None without one."""
        return None if self.boundary is None else self.boundary._keras_history.operation.name

    def split(self) -> tuple[keras.Model, keras.Model] | None:
        """Return (prefix, suffix), sharing the model's weights, or None without a boundary."""
        return None if self.boundary is None else split_model(self.model, self.boundary)


@dataclass(frozen=True, eq=False)
class Unfrozen:
    """A backbone with its head, before anything is frozen; one can be arranged again and again.

    Attributes:
        model: As of ``Network``.
        blocks: As of ``Network``.
        image_size: As of ``Network``.
    """

    model: keras.Model
    blocks: tuple[Block, ...]
    image_size: tuple[int, int]


def build_network(config: RunConfig, num_classes: int, strategy: tf.distribute.Strategy | None = None) -> Network:
    """Build the network of a run: backbone, blocks, freezing, head.

    The initial weights are a function of the config alone: the same on every worker, whatever the process
    has built or drawn before.

    Args:
        config: model, freeze, data.image_size, data.channels, train.precision and seed count.
        num_classes: Width of the logits.
        strategy: Holds the network's variables; the current one where not given.

    Raises:
        ModelError: Backbone, weights, picture size, freeze depth or head do not fit each other.
    """
    return arrange(build_unfrozen(config, num_classes, strategy), config)


def build_unfrozen(config: RunConfig, num_classes: int, strategy: tf.distribute.Strategy | None = None) -> Unfrozen:
    """Build what ``build_network`` does without freezing; of ``freeze``, only adapters depend on it."""
    image_size = input_size(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_building(POLICIES[config.train.precision], config.seed))
        # Outside of the scope, where each variable would cost a broadcast, for the clone's alone count.
        source = build_backbone(config, (*image_size, config.data.channels))
        stack.enter_context((strategy or tf.distribute.get_strategy()).scope())
        backbone = worker_invariant(source)
        blocks = list_blocks(backbone)
        phases = list_phases(config.freeze, blocks, config.train.epochs)
        if config.model.adapter is not None:
            add_adapters(blocks[phases[-1].depth :], config.model.adapter, config.seed)
        logits = add_head(backbone.outputs[0], config.model, num_classes, config.seed)
        return Unfrozen(keras.Model(backbone.inputs[0], logits, name="network"), blocks, image_size)


def arrange(built: Unfrozen, config: RunConfig) -> Network:
    """Freeze in place as the config says; networks arranged of the same model before are then out of date.

    Args:
        built: From ``build_unfrozen`` with a config that agrees but in ``freeze`` and what is no part of a network.
        config: freeze, model and train.epochs count.
    """
    pretrained = config.model.weights != "none"
    phases = list_phases(config.freeze, built.blocks, config.train.epochs)
    licence, adapter = licence_of(config.model), config.model.adapter
    network = Network(built.model, built.blocks, 0, None, built.image_size, licence, phases, 0, pretrained, adapter)
    return replace(network, fixed=_fixed(network.at(len(phases) - 1))).at(0)


def find_boundary(model: keras.Model, blocks: tuple[Block, ...], depth: int) -> Any | None:
    """Return the tensor between the first ``depth`` blocks and the rest of ``model``, or None.

    Of all blocks it lies behind the pooling, which has no weights: there the features are far smaller.
    """
    tensor = boundary(model, blocks, depth)
    return _after_pooling(model, tensor) if tensor is not None and depth == len(blocks) else tensor


@contextlib.contextmanager
def _building(policy: str, seed: int) -> Iterator[None]:
    """Make dtypes, layer names and random draws independent of what the process did before."""
    outer_policy, outer_state = keras.config.dtype_policy(), random.getstate()
    outer_names = global_state.get_global_attribute("object_name_uids")
    keras.config.set_dtype_policy(policy)
    # Keras seeds initialisers from Python's generator, and counts names over the whole process.
    random.seed(seed)
    global_state.set_global_attribute("object_name_uids", collections.defaultdict(int))
    try:
        yield
    finally:
        keras.config.set_dtype_policy(outer_policy)
        random.setstate(outer_state)
        global_state.set_global_attribute("object_name_uids", outer_names)


def _fixed(last: Network) -> frozenset[int]:
    """Ids of the weights that stay in the last phase, and so in all."""
    return frozenset(
        id(variable)
        for index, block in enumerate(last.blocks)
        for layer in block.layers
        for variable in layer.weights
        # Beside adapters all else stays; otherwise an unfrozen BatchNormalization moves its statistics.
        if index < last.frozen_depth
        or (last.adapter is not None and not any(variable is one for one in layer.trainable_variables))
    )


def _after_pooling(model: keras.Model, tensor: Any) -> Any:
    for name in ("head_pool", "head_flatten"):
        for layer in model.layers:
            if layer.name == name:
                return layer.output
    return tensor
