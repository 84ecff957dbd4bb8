"""Whether a cluster can ever hold a run, by the resources of its nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayft.config import ClusterConfig
from rayft.errors import ClusterError


def check_capacity(config: ClusterConfig, resources: Mapping[str, float]) -> None:
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


def check_nodes(config: ClusterConfig, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse a run whose workers the nodes could never hold, although there may be enough in all.

    Raises:
        ClusterError: Says what is asked, and what each node has.
    """
    total: dict[str, float] = {}
    for node in nodes:
        for name, amount in node.items():
            total[name] = total.get(name, 0.0) + amount
    check_capacity(config, total)
    held = sum(workers_of_nodes(config, nodes))
    if held < config.workers:
        asked = " and ".join(
            f"{amount:g} {name}"
            for name, amount in (("CPU", config.cpus_per_worker), ("GPU", config.gpus_per_worker))
            if amount
        )
        there = "; ".join(f"{node.get('CPU', 0):g} CPU, {node.get('GPU', 0):g} GPU" for node in nodes)
        fewer = f"Set cluster.workers to {held}, or lower" if held else "Lower"
        raise ClusterError(
            f"cluster.workers is {config.workers}, each with {asked} on one node; the {len(nodes)} nodes hold {held} "
            f"({there}).",
            f"{fewer} what a worker reserves (cluster.cpus_per_worker, cluster.gpus_per_worker), or use larger nodes.",
        )


def workers_of_nodes(config: ClusterConfig, nodes: Sequence[Mapping[str, float]]) -> list[int]:
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
