"""How TensorFlow's workers learn of each other, without loading TensorFlow where it does not compute.

Ray's own ``TensorflowConfig`` does the same, but whoever unpickles it imports TensorFlow: the controller of a group,
which then starts its workers three seconds later.
"""

from __future__ import annotations

import json
import os
from typing import Any

import ray
from ray._common.network_utils import build_address
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig


class WorkersOfTensorflow(BackendConfig):
    """Gives each worker the ``TF_CONFIG`` of its rank; to be given to Ray's trainer."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Return what Ray Train calls when the workers have started."""
        return _Backend

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, of which there are none."""
        return {}


class _Backend(Backend):
    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        addresses = worker_group.execute(_address)
        ray.get(
            [worker_group.execute_single_async(rank, _set_up, addresses, rank) for rank in range(len(worker_group))]
        )


def _address() -> str:
    return build_address(*get_address_and_port())


def _set_up(addresses: list[str], rank: int) -> None:
    task = {"type": "worker", "index": rank}
    os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": task})
