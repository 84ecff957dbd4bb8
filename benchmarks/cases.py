"""The networks that are measured, as configs."""

from __future__ import annotations

from typing import Any

PICTURES = "examples/data/pictures.parquet"
BATCH_SIZE = 32
# The first two thirds of the blocks are frozen, the last third learns.
LAST_THIRD = 0.6667

NETWORKS: dict[str, dict[str, Any]] = {
    "lite0-frozen-128": {"backbone": "efficientnet_lite0", "weights": "imagenet", "depth": "all", "side": 128},
    "lite0-all-160": {"backbone": "efficientnet_lite0", "weights": "imagenet", "depth": 0, "side": 160},
    "lite0-third-96": {"backbone": "efficientnet_lite0", "weights": "imagenet", "depth": LAST_THIRD, "side": 96},
    "mobilenetv2-third-96": {"backbone": "mobilenetv2", "weights": "none", "depth": LAST_THIRD, "side": 96},
    "mobilenetv2-frozen-96": {"backbone": "mobilenetv2", "weights": "none", "depth": "all", "side": 96},
    "mobilenetv2-third-160": {"backbone": "mobilenetv2", "weights": "none", "depth": LAST_THIRD, "side": 160},
}
# Of MobileNetV2's 19 blocks, for the architecture written anew in PyTorch.
TORCH_FROZEN_BLOCKS = {"mobilenetv2-third-96": 13, "mobilenetv2-frozen-96": 19}


def make_config(case: str, *, cpus_per_worker: int, global_batch_size: int = BATCH_SIZE) -> dict[str, Any]:
    """Return the config of a case: Adam at a constant rate, BatchNorm frozen."""
    network = NETWORKS[case]
    return {
        "data": {"source": PICTURES, "image_size": network["side"], "global_batch_size": global_batch_size},
        "model": {"backbone": network["backbone"], "weights": network["weights"]},
        "freeze": {"depth": network["depth"], "batch_norm": "frozen"},
        "optim": {"name": "adam", "learning_rate": 1e-4, "schedule": "constant", "warmup_fraction": 0.0},
        # As long as the driver wants.
        "train": {"epochs": 100_000},
        "cluster": {"cpus_per_worker": cpus_per_worker},
    }
