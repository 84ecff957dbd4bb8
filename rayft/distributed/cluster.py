"""The Ray cluster that a run uses: an embedded one, or one that is there already."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import ray

from rayft.config import ClusterConfig
from rayft.errors import ClusterError


@contextlib.contextmanager
def connect(config: ClusterConfig) -> Iterator[None]:
    """Join the cluster of the config, or start an embedded one that ends with the block.

    Raises:
        ClusterError: The address does not answer, or the cluster is too small for the workers.
    """
    if config.address is None:
        check_capacity(config, embedded_resources())
    try:
        ray.init(
            address=config.address or "local",
            include_dashboard=False if config.address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, ValueError, OSError) as error:
        raise ClusterError(
            f"Cannot reach the Ray cluster at cluster.address {config.address!r}: {str(error).splitlines()[0]}",
            "Give the address that `ray start` printed, or leave cluster.address empty for an embedded Ray.",
        ) from None
    try:
        if config.address is not None:
            check_capacity(config, ray.cluster_resources())
        yield
    finally:
        ray.shutdown()


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
