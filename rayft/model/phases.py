"""The phases of a run: which blocks are frozen in which epochs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from rayft.config import BLOCKS_RATE, HEAD_RATE, FreezeConfig, is_head_only
from rayft.errors import ModelError
from rayft.model.blocks import Block
from rayft.model.freeze import resolve_depth


@dataclass(frozen=True)
class Phase:
    """A part of a run with one freeze depth.

    Attributes:
        first_epoch: Epochs done before it begins.
        depth: Blocks frozen.
        batch_norm: Whether BatchNormalization of the other blocks trains: auto, frozen or trainable.
        rate: Factor on the learning rate.
    """

    first_epoch: int
    depth: int
    batch_norm: str
    rate: float


def list_phases(freeze: FreezeConfig, blocks: Sequence[Block], epochs: int) -> tuple[Phase, ...]:
    """Return the phases of a run in order; one where the config asks for no change.

    Source: Howard and Ruder 2018, arXiv:1801.06146, section 3.3, for the gradual kind.

    Args:
        freeze: depth, batch_norm, and what changes them.
        blocks: From ``list_blocks``.
        epochs: Of the whole run.

    Raises:
        ModelError: A depth is unknown, is larger than that of the phase before, or comes after the end.
    """
    last = resolve_depth(freeze.depth, blocks)
    head_only = len(blocks)
    # Without a factor, optim.learning_rate is that of the blocks; a new head learns at the rate that suits it.
    head_rate = HEAD_RATE / BLOCKS_RATE if last < head_only else 1.0
    if freeze.schedule:
        phases = []
        for given in freeze.schedule:
            depth = resolve_depth(given.depth, blocks)
            usual = head_rate if depth == head_only else 1.0
            batch_norm = given.batch_norm or freeze.batch_norm
            phases.append(Phase(given.epoch, depth, batch_norm, given.learning_rate or usual))
    else:
        depths = _shorthand(freeze, last, head_only)
        phases = [
            Phase(epoch, depth, freeze.batch_norm, head_rate if depth == head_only else 1.0) for epoch, depth in depths
        ]
    _check(phases, blocks, epochs)
    return tuple(phases)


def _shorthand(freeze: FreezeConfig, last: int, head_only: int) -> list[tuple[int, int]]:
    """First epoch and depth of each phase that head_first_epochs and gradual stand for."""
    if not (freeze.head_first_epochs or freeze.gradual) or is_head_only(freeze.depth):
        return [(0, last)]
    start = freeze.head_first_epochs or freeze.gradual
    if not freeze.gradual:
        return [(0, head_only), (start, last)]
    steps = [(start + index * freeze.gradual, depth) for index, depth in enumerate(range(head_only - 1, last - 1, -1))]
    return [(0, head_only), *steps]


def _check(phases: Sequence[Phase], blocks: Sequence[Block], epochs: int) -> None:
    for early, late in itertools.pairwise(phases):
        if late.depth > early.depth:
            raise ModelError(
                f"freeze.schedule goes from depth {early.depth} to {late.depth} at epoch {late.first_epoch}; what was "
                "trained is not frozen again.",
                f"Give depths that fall, from {len(blocks)} (all) to 0.",
            )
    if phases[-1].first_epoch >= epochs:
        raise ModelError(
            f"The last of {len(phases)} phases begins after epoch {phases[-1].first_epoch}; train.epochs is {epochs}.",
            f"Set train.epochs to {phases[-1].first_epoch + 1} or more, or unfreeze faster or fewer blocks.",
        )
