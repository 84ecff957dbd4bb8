"""The ordered blocks of a backbone."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

# Block names in the layer names of keras.applications; group 1 (or 2) is the block.
NAME_PATTERNS = (
    r"(block\d+[a-z]?)_(?:conv|sepconv|pool|expand|dwconv|se_|project|bn|activation|drop|add|reshape).*",
    r"(block(?:35|17|8)_\d+)_.*",  # InceptionResNetV2
    r"(conv\d+_block\d+)_.*",  # ResNet, DenseNet
    r"(pool[234])_.*",  # DenseNet transitions
    r"(block_\d+)_.*",  # MobileNetV2
    r"(expanded_conv(?:_\d+)?)_(?:expand|depthwise|project|squeeze|add).*",  # MobileNetV2, V3
    r"(mixed\d+)(?:_\d+)?",  # InceptionV3
    r"(mixed_\d[a-z])",
    r".*_(stage_\d+_block_\d+)_.*",  # ConvNeXt
    r".*_(downsampling_block_\d+)",
    r"(?:adjust|reduction|normal|separable)_.*_(stem_\d|reduce_\d+)",  # NASNet
)
# Patterns whose name lacks a prefix that says what it is.
NUMBER_PATTERNS = (
    (r"conv_(?:dw|pw|pad)_(\d+)(?:_.*)?", "conv_{}"),  # MobileNet
    (r"(?:adjust|normal|separable)_.*_(\d+)", "cell_{}"),  # NASNet
)
_NORMALISATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.UnitNormalization,
)


@dataclass(frozen=True)
class Block:
    """Neighbouring layers that are frozen together; the input layer belongs to none."""

    name: str
    layers: tuple[keras.layers.Layer, ...]


@dataclass(frozen=True, eq=False)
class _Cut:
    """A tensor through which all data passes, after the first ``end`` nodes."""

    end: int
    tensor: Any


def list_blocks(model: keras.Model) -> tuple[Block, ...]:
    """List the blocks of a functional model in input order.

    A block starts and ends where all data passes through one tensor; neighbours whose layer names
    name one block are joined. Where a model names several blocks between two such tensors (NASNet), these
    are told apart by name. The layers of the first n blocks are closed under "is an input of", for every n.

    Args:
        model: Functional, with one input and one output.

    Returns:
        Blocks that carry weights; layers without weights belong to the block before them. Empty when no
        layer has weights.
    """
    nodes = _ordered_nodes(model)
    ends = [cut.end for cut in _find_cuts(model, nodes)]
    segments = [nodes[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    named = [(_segment_name(segment), segment) for segment in segments]
    groups = _join_neighbours(named)
    blocks: list[Block] = []
    taken: Counter[str] = Counter()
    for name, group in groups:
        for part_name, layers in _split_by_name(name, group):
            taken[part_name] += 1
            unique = part_name if taken[part_name] == 1 else f"{part_name}_again{taken[part_name] - 1}"
            blocks.append(Block(unique, layers))
    return tuple(blocks)


def boundary(model: keras.Model, blocks: Sequence[Block], depth: int) -> Any | None:
    """Find the one tensor between the first ``depth`` blocks and the rest of ``model``.

    Args:
        model: The model that ``blocks`` were listed from, or one that continues it.
        blocks: From ``list_blocks``.
        depth: How many of them lie before the tensor.

    Returns:
        The KerasTensor, or None when ``depth`` is 0 or data crosses there in several tensors.
    """
    wanted = {id(layer) for block in blocks[:depth] for layer in block.layers}
    if not wanted:
        return None
    nodes = _ordered_nodes(model)
    found = None
    for cut in _find_cuts(model, nodes):
        if {id(layer) for layer in _layers(nodes[: cut.end])} == wanted:
            # Operations that are no layers may follow; the last such cut holds them too.
            found = cut.tensor
    return found


def cut_tensors(model: keras.Model) -> list[Any]:
    """Return the tensors through which all data passes, in input order; the input left out, the output included."""
    return [cut.tensor for cut in _find_cuts(model, _ordered_nodes(model))]


def split_model(model: keras.Model, tensor: Any) -> tuple[keras.Model, keras.Model]:
    """Cut ``model`` in two at a boundary before its output; the parts share its layers and weights.

    Returns:
        (prefix, suffix) with suffix(prefix(x)) equal to model(x), bit for bit.
    """
    prefix = keras.Model(model.inputs[0], tensor, name=f"{model.name}_prefix")
    suffix = keras.Model(tensor, model.outputs[0], name=f"{model.name}_suffix")
    return prefix, suffix


def _ordered_nodes(model: keras.Model) -> list[Any]:
    """Return the calls of the graph, every call after those it depends on."""
    # Keras offers operations in this order, but not their calls, and a layer can be called twice.
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _find_cuts(model: keras.Model, nodes: Sequence[Any]) -> list[_Cut]:
    """Find all single-tensor cuts, the input left out, the output included."""
    last_use = {id(tensor): index for index, node in enumerate(nodes) for tensor in node.input_tensors}
    last_use[id(model.outputs[0])] = len(nodes)
    calls_left = Counter(id(node.operation) for node in nodes)
    shared: set[int] = set()
    live: dict[int, Any] = {}
    cuts = []
    for index, node in enumerate(nodes):
        for tensor in node.input_tensors:
            if last_use[id(tensor)] == index:
                live.pop(id(tensor), None)
        live.update({id(tensor): tensor for tensor in node.output_tensors if last_use.get(id(tensor), -1) > index})
        # A layer called on both sides of a cut would be frozen and trained at once.
        calls_left[id(node.operation)] -= 1
        (shared.add if calls_left[id(node.operation)] else shared.discard)(id(node.operation))
        if len(live) == 1 and not shared and not node.is_input:
            cuts.append(_Cut(index + 1, next(iter(live.values()))))
    return cuts


def _layers(nodes: Sequence[Any]) -> list[keras.layers.Layer]:
    operations = {id(node.operation): node.operation for node in nodes if not node.is_input}
    return [operation for operation in operations.values() if isinstance(operation, keras.layers.Layer)]


def _name_in(layer_name: str) -> str | None:
    for pattern in NAME_PATTERNS:
        if match := re.fullmatch(pattern, layer_name):
            return match[1]
    for pattern, template in NUMBER_PATTERNS:
        if match := re.fullmatch(pattern, layer_name):
            return template.format(match[1])
    return None


def _segment_name(segment: Sequence[Any]) -> str | None:
    """Name the block of a segment, preferring names of layers with weights."""
    layers = _layers(segment)
    # InceptionV3 names only joins; the one that ends the segment tells mixed10 from mixed9.
    for layer in [*(layer for layer in layers if layer.weights), *reversed(layers)]:
        if name := _name_in(layer.name):
            return name
    return None


def _join_neighbours(named: Sequence[tuple[str | None, Sequence[Any]]]) -> list[tuple[str, list[Any]]]:
    """Join segments into blocks: the same name, and what carries no weights of its own."""
    family = [index for index, (name, nodes) in enumerate(named) if name and _weighted(nodes)]
    first, last = (family[0], family[-1]) if family else (len(named), -1)
    groups: list[tuple[str, list[Any]]] = []
    waiting: list[Any] = []
    for index, (name, segment) in enumerate(named):
        weighted = _weighted(segment)
        upcoming = next((n for n, nodes in named[index + 1 :] if _weighted(nodes)), None)
        if not weighted and (not groups or (name is not None and name == upcoming != groups[-1][0])):
            waiting += segment
            continue
        if name is None and all(isinstance(layer, _NORMALISATIONS) for layer in weighted):
            # Also a segment without weights ends here.
            if not groups:
                waiting += segment
                continue
            name = groups[-1][0]
        elif name is None:
            own = weighted[0].name
            name = "stem" if index < first < len(named) else "top" if family and index > last else own
        elif not weighted:
            name = groups[-1][0]
        if groups and groups[-1][0] == name:
            groups[-1][1].extend([*waiting, *segment])
        else:
            groups.append((name, [*waiting, *segment]))
        waiting = []
    if not groups and _weighted(waiting):
        groups.append((_weighted(waiting)[0].name, waiting))
    return groups


def _weighted(nodes: Sequence[Any]) -> list[keras.layers.Layer]:
    return [layer for layer in _layers(nodes) if layer.weights]


def _split_by_name(name: str, nodes: Sequence[Any]) -> list[tuple[str, tuple[keras.layers.Layer, ...]]]:
    """Tell apart several named blocks that no single tensor separates."""
    order: list[str] = []
    rank_of: dict[int, int] = {}
    layers_of: dict[int, dict[int, keras.layers.Layer]] = {}
    for node in nodes:
        operation = node.operation
        own = _name_in(operation.name) if getattr(operation, "weights", None) else None
        if own is not None and own not in order:
            order.append(own)
        parents = [rank_of.get(id(parent.operation), 0) for parent in node.parent_nodes]
        # Never before an input of its own, so that the first n parts stay closed.
        rank = max([0 if own is None else order.index(own), *parents])
        rank_of[id(operation)] = max(rank, rank_of.get(id(operation), 0))
        if isinstance(operation, keras.layers.Layer) and not node.is_input:
            layers_of.setdefault(rank_of[id(operation)], {})[id(operation)] = operation
    if len(order) < 2:
        return [(name, tuple(_layers(nodes)))]
    return [(order[rank], tuple(layers_of[rank].values())) for rank in sorted(layers_of)]
