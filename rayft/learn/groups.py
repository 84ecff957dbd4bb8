"""Which trainable variables belong to which block, and what follows for them."""

from __future__ import annotations

from rayft.config import OptimConfig
from rayft.config.train import L2SpConfig
from rayft.model.network import Network


def block_numbers(network: Network) -> list[int | None]:
    """Return the block, from 0 at the input, of each trainable variable; None for those of the head."""
    numbers = {
        id(variable): number
        for number, block in enumerate(network.blocks)
        for layer in block.layers
        for variable in layer.weights
    }
    return [numbers.get(id(variable)) for variable in network.model.trainable_variables]


def rate_factors(config: OptimConfig, network: Network) -> list[float] | None:
    """Return the factor of each trainable variable's learning rate; None where all are 1.

    Block i of n has layer_decay^(n - i): the last block is one away from the head. Source: Clark et al. 2020
    (ELECTRA, arXiv:2003.10555), Bao et al. 2021 (BEiT, arXiv:2106.08254).
    """
    if config.layer_decay == 1 and config.head_multiplier == 1:
        return None
    depth = len(network.blocks)
    return [
        config.head_multiplier if number is None else config.layer_decay ** (depth - number)
        for number in block_numbers(network)
    ]


def pulls(config: L2SpConfig, network: Network) -> tuple[list[float], list[bool]]:
    """Return the strength of each trainable variable's decay, and whether it leads to the initial value."""
    in_block = [number is not None for number in block_numbers(network)]
    return [config.alpha if inside else config.beta for inside in in_block], in_block
