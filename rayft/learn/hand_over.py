"""The package of a trained network."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.data.picture import decode_picture
from rayft.data.views import answer_views, tta_record
from rayft.evaluation.calibration import as_probabilities
from rayft.learn.forward import Forward
from rayft.model.describe import describe_blocks
from rayft.model.layers import portable
from rayft.model.network import Network
from rayft.package.golden import Golden, choose_rows
from rayft.package.write import write_package
from rayft.storage import Storage


def package_network(
    where: Storage,
    network: Network,
    config: RunConfig,
    dataset: Dataset,
    *,
    metrics: dict[str, float],
    calibration: dict[str, Any],
) -> None:
    """Write the package of the weights that the network holds, in place of what is there.

    Args:
        where: The package's folder.
        network: In its last phase: what stayed fixed to the end was fixed in earlier ones too.
        config: The run.
        dataset: Its examples; a few of them become the golden ones.
        metrics: Of these weights.
        calibration: Temperature, and what came of it.
    """
    sizes = {split: size for split in ("train", "validation", "test") if (size := dataset.size(split))}
    golden_split = next(split for split in ("validation", "test", "train") if split in sizes)
    with tempfile.TemporaryDirectory(prefix="rayft-package-") as scratch:
        local = Path(scratch) / "package"
        write_package(
            local,
            model=portable(network.model),
            config=config,
            labels=dataset.labels,
            multi_label=dataset.multi_label,
            image_size=network.image_size,
            licence=network.licence,
            metrics=metrics,
            dataset_fingerprint=dataset.fingerprint,
            blocks_frozen=[block.name for block in network.blocks[: network.frozen_depth]],
            blocks=describe_blocks(network),
            calibration=calibration,
            golden=_golden(network, config, dataset, golden_split, calibration["temperature"]),
            golden_split=golden_split,
            examples=sizes,
            boundary=network.boundary_name,
        )
        where.delete()
        where.upload_folder(local)


def _golden(network: Network, config: RunConfig, dataset: Dataset, split: str, temperature: float) -> Golden:
    """Answer a few examples as ``evaluate`` does."""
    rows = dataset.split(split)["row"].to_numpy()
    inputs = dataset.reader.read(rows[choose_rows(len(rows))])
    images = [decode_picture(tf.constant(encoded), network.image_size, config.data.channels) for encoded in inputs]
    # The task's own may begin behind the prefix cache.
    forward, several = Forward(network), dataset.multi_label
    logits = answer_views(forward, tf.stack(images), tta_record(config), multi_label=several).numpy()
    return Golden(tuple(inputs), as_probabilities(logits, temperature, multi_label=several))
