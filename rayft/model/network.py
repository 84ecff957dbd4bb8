"""The whole network of a run."""

from __future__ import annotations

import collections
import contextlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from rayft.config import AdapterConfig, ModelConfig, RunConfig
from rayft.errors import ModelError
from rayft.model import applications, efficientnet_lite
from rayft.model.adapter import add_adapters
from rayft.model.blocks import Block, boundary, list_blocks, split_model
from rayft.model.freeze import freeze
from rayft.model.head import add_head
from rayft.model.layers import worker_invariant
from rayft.model.phases import Phase, list_phases
from rayft.model.weights_file import load_model, load_weights, read_input_size

POLICIES = {
    "float32": "float32",
    "float64": "float64",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
_RANDOM = "none: random weights"


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


def default_image_size(config: ModelConfig) -> tuple[int, int]:
    """Return the (height, width) that the backbone was made for, without building it.

    Raises:
        ModelError: The backbone is unknown, or has no size of its own.
    """
    if config.backbone == "none":
        raise ModelError("Without a backbone there is no usual picture size.", "Set data.image_size.")
    if config.backbone.endswith(".keras"):
        height, width = read_input_size(config.backbone)
        if height is None or width is None:
            raise ModelError(f"{config.backbone} takes pictures of any size.", "Set data.image_size.")
        return height, width
    lite = _lite_name(config.backbone)
    name = lite or applications.find_application(config.backbone)
    side = efficientnet_lite.VARIANTS[name][2] if lite else applications.APPLICATIONS[name].image_size
    return side, side


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
    image_size = input_size(config)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_building(POLICIES[config.train.precision], config.seed))
        # Outside of the scope, where each variable would cost a broadcast, for the clone's alone count.
        source = _build_backbone(config, (*image_size, config.data.channels))
        stack.enter_context((strategy or tf.distribute.get_strategy()).scope())
        backbone = worker_invariant(source)
        blocks = list_blocks(backbone)
        phases = list_phases(config.freeze, blocks, config.train.epochs)
        if config.model.adapter is not None:
            add_adapters(blocks[phases[-1].depth :], config.model.adapter, config.seed)
        logits = add_head(backbone.outputs[0], config.model, num_classes, config.seed)
        model = keras.Model(backbone.inputs[0], logits, name="network")
    pretrained = config.model.weights != "none"
    network = Network(
        model, blocks, 0, None, image_size, _licence(config.model), phases, 0, pretrained, config.model.adapter
    )
    return replace(network, fixed=_fixed(network.at(len(phases) - 1))).at(0)


def find_boundary(model: keras.Model, blocks: tuple[Block, ...], depth: int) -> Any | None:
    """Return the tensor between the first ``depth`` blocks and the rest of ``model``, or None.

    Of all blocks it lies behind the pooling, which has no weights: there the features are far smaller.
    """
    tensor = boundary(model, blocks, depth)
    return _after_pooling(model, tensor) if tensor is not None and depth == len(blocks) else tensor


def describe_blocks(network: Network) -> list[dict[str, Any]]:
    """Return name, layers, parameters and frozen of each block of the backbone, then of the head."""
    rows: list[dict[str, Any]] = []
    counted: set[int] = set()
    for index, block in enumerate(network.blocks):
        weights = [weight for layer in block.layers for weight in layer.weights]
        counted |= {id(weight) for weight in weights}
        rows.append(_row(block.name, len(block.layers), weights, index < network.frozen_depth))
    head = [weight for weight in network.model.weights if id(weight) not in counted]
    return [*rows, _row("head", _layers_of_head(network), head, False)]


def _layers_of_head(network: Network) -> int:
    in_blocks = {id(layer) for block in network.blocks for layer in block.layers}
    inputs = keras.layers.InputLayer
    return sum(id(layer) not in in_blocks and not isinstance(layer, inputs) for layer in network.model.layers)


def _row(name: str, layers: int, weights: list[Any], is_frozen: bool) -> dict[str, Any]:
    parameters = sum(math.prod(weight.shape) for weight in weights)
    return {"name": name, "layers": layers, "parameters": parameters, "frozen": is_frozen}


def smallest_side(name: str) -> int:
    """Return the smallest side, in pixels, that a named backbone takes."""
    if _lite_name(name):
        return efficientnet_lite.MIN_SIZE
    return applications.APPLICATIONS[applications.find_application(name)].min_size


def input_size(config: RunConfig) -> tuple[int, int]:
    """Return the height and width of the pictures that the network sees, without building it.

    Raises:
        ModelError: Neither config nor backbone says it.
    """
    given = config.data.image_size
    if given is None:
        return default_image_size(config.model)
    return (given, given) if isinstance(given, int) else given


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


def _build_backbone(config: RunConfig, input_shape: tuple[int, int, int]) -> keras.Model:
    name, weights = config.model.backbone, config.model.weights
    if name == "none":
        image = keras.Input(input_shape, name="image")
        scaled = keras.layers.Rescaling(1 / 255, dtype=efficientnet_lite.exact_dtype(), name="normalise")(image)
        return keras.Model(image, scaled, name="none")
    if name.endswith(".keras"):
        return _build_from_file(name, weights, input_shape)
    lite = _lite_name(name)
    known = lite or applications.find_application(name)
    smallest = smallest_side(name)
    if min(input_shape[:2]) < smallest:
        raise ModelError(
            f"data.image_size is {input_shape[0]}x{input_shape[1]}; {known} takes no side below {smallest} pixels.",
            f"Set data.image_size to {smallest} or more.",
        )
    if weights != "none" and input_shape[2] != 3:
        raise ModelError(
            f"data.channels is {input_shape[2]}; the pretrained weights of {known} need 3.",
            "Set data.channels to 3 (grey pictures are then repeated), or model.weights to none.",
        )
    return (
        _build_lite(known, input_shape, weights)
        if lite
        else applications.build_application(known, input_shape, weights)
    )


def _build_lite(name: str, input_shape: tuple[int, int, int], weights: str) -> keras.Model:
    model = efficientnet_lite.build_efficientnet_lite(name, input_shape)
    if weights == "imagenet":
        efficientnet_lite.load_packaged_weights(model)
    elif weights.endswith((".pth", ".pt")):
        efficientnet_lite.load_torch_weights(model, weights)
    elif weights != "none":
        load_weights(model, weights)
    return model


def _build_from_file(path: str, weights: str, input_shape: tuple[int, int, int]) -> keras.Model:
    """Load a model file; ``imagenet``, the default, means the weights in the file itself."""
    loaded = load_model(path)
    expected = loaded.inputs[0].shape[1:]
    if any(side not in (None, given) for side, given in zip(expected, input_shape, strict=True)):
        raise ModelError(
            f"{path} takes pictures of shape {expected}; data.image_size and data.channels make {input_shape}.",
            "Change data.image_size and data.channels.",
        )
    # A clone has fresh random weights and layers of the wanted precision.
    model = keras.models.clone_model(loaded, clone_function=_under_policy, recursive=True)
    if weights == "imagenet":
        model.set_weights(loaded.get_weights())
    elif weights != "none":
        load_weights(model, weights)
    image = keras.Input(input_shape, name="image")
    return keras.Model(image, model.call(image), name=model.name)


def _under_policy(layer: Any) -> Any:
    config = layer.get_config()
    if "dtype" in config:
        config["dtype"] = keras.config.dtype_policy()
    return layer.__class__.from_config(config)


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


def _lite_name(name: str) -> str | None:
    key = name.lower().replace("_", "").replace("-", "")
    return next((lite for lite in efficientnet_lite.VARIANTS if lite.replace("_", "") == key), None)


def _licence(config: ModelConfig) -> str:
    if config.weights == "none" or config.backbone == "none":
        return _RANDOM
    if config.weights != "imagenet":
        return f"as of the file {config.weights}"
    if config.backbone.endswith(".keras"):
        return f"as of the file {config.backbone}"
    if _lite_name(config.backbone):
        return efficientnet_lite.LICENCE
    return applications.APPLICATIONS[applications.find_application(config.backbone)].licence
