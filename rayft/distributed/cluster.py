"""The Ray cluster that a run uses: an embedded one, or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence

import ray

from rayft.config import ClusterConfig
from rayft.errors import ClusterError

_ANSWER_S = 10.0


@contextlib.contextmanager
def connect(config: ClusterConfig) -> Iterator[None]:
    """Join the cluster of the config, or start an embedded one that ends with the block.

    Raises:
        ClusterError: The address does not answer, or the cluster is too small for the workers.
    """
    if config.address is None:
        check_capacity(config, embedded_resources())
    else:
        _require_answer(config.address)
    try:
        ray.init(
            address=config.address or "local",
            include_dashboard=False if config.address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, OSError) as error:
        raise _unreachable(config.address, str(error).splitlines()[0]) from None
    try:
        if config.address is not None:
            check_capacity(config, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Knock at an address of the form host:port; Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if not (separator and port.isdecimal()) or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str | None, reason: str) -> ClusterError:
    return ClusterError(
        f"Cannot reach the Ray cluster at cluster.address {address!r}: {reason}",
        "Give the address that `ray start` printed, or leave cluster.address empty for an embedded Ray.",
    )


def embedded_resources() -> dict[str, float]:
    """Return what an embedded Ray would offer on this machine."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    gpus = get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators()
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(gpus)}


def check_capacity(config: ClusterConfig, resources: dict[str, float]) -> None:
    """Refuse a run that the cluster could never hold.

    Raises:
        ClusterError: Says what is asked, what there is, and what would fit.
    """
    for name, field in (("CPU", "cpus_per_worker"), ("GPU", "gpus_per_worker")):
        each = getattr(config, field)
        there = resources.get(name, 0.0)
        if each * config.workers > there:
            smaller = f"set cluster.{field} to {there / config.workers:.2g} or less, " if there else ""
            raise ClusterError(
                f"cluster.workers {config.workers} x cluster.{field} {each:g} needs {each * config.workers:g} {name}; "
                f"the cluster has {there:g}.",
                f"Lower cluster.workers, {smaller}or use a larger cluster.",
            )


def workers_of_nodes(config: ClusterConfig, nodes: Sequence[dict[str, float]]) -> list[int]:
    """Return how many workers each node gets, the roomiest first, as Ray packs them.

    A worker lies on one node, so the sum can be below ``workers`` although the cluster's resources are enough.

    Args:
        config: Workers, and what each reserves.
        nodes: ``CPU`` and ``GPU`` of each node.
    """
    asked = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker}
    # Shares such as a third do not add up exactly.
    rooms = [min(int(node.get(name, 0.0) / each + 1e-9) for name, each in asked.items() if each) for node in nodes]
    left, taken = config.workers, []
    for room in sorted(rooms, reverse=True):
        taken.append(min(room, left))
        left -= taken[-1]
    return taken
