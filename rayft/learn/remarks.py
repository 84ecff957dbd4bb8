"""What a run has to say about itself before it trains."""

from __future__ import annotations

import keras
import numpy as np

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.data.notices import batch_norm_notice, class_notices, rate_notice
from rayft.model.network import Network


def start_notices(config: RunConfig, network: Network, dataset: Dataset, total_steps: int) -> list[str]:
    """Return the traps that data, network and plan walk into.

    Args:
        config: The run, with a settled learning rate.
        network: In any phase.
        dataset: The examples.
        total_steps: Of the whole run.
    """
    notices = class_notices(_labels(dataset, "train"), _labels(dataset, "validation"), dataset.labels)
    last = network.phases[-1]
    per_epoch = total_steps // config.train.epochs
    momenta = [
        layer.momentum
        for block in network.blocks[last.depth :]
        for outer in block.layers
        for layer in outer._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    if momenta and network.trains_batch_norm(last):
        started = next(phase.first_epoch for phase in network.phases if network.trains_batch_norm(phase))
        notices += _said(batch_norm_notice(max(momenta), total_steps - started * per_epoch))
    peak = config.optim.learning_rate * max(
        (phase.rate for phase in network.phases if phase.depth < len(network.blocks)), default=0.0
    )
    own_weights = network.pretrained and network.adapter is None and last.depth < len(network.blocks)
    return notices + _said(rate_notice(config.optim.name.lower(), peak, own_weights))


def _labels(dataset: Dataset, split: str) -> np.ndarray:
    return dataset.targets(split).numbers


def _said(notice: str | None) -> list[str]:
    return [] if notice is None else [notice]
