"""How trials are laid over the cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rayft.config import RunConfig
from rayft.errors import ClusterError, ConfigError

# Below so many examples seen in a trial, starting a group of workers takes longer than training alone.
SMALL_TRIAL = 500_000

Node = Mapping[str, float]


@dataclass(frozen=True)
class TrialPlan:
    """Which kind of trial runs, and how many at once.

    Attributes:
        kind: light: one process a slot, used again for the next trial; distributed: a group of workers each.
        reason: Why this kind, as a sentence.
        slots: Trials at once.
        resources: What Ray reserves for the process of a trial itself; its workers reserve theirs.
        workers: Model copies of a trial.
    """

    kind: Literal["light", "distributed"]
    reason: str
    slots: int
    resources: dict[str, float]
    workers: int

    def describe(self) -> str:
        """Say what was decided."""
        each = "1 process" if self.kind == "light" else f"{self.workers} workers"
        at_once = "one at a time" if self.slots == 1 else f"{self.slots} at once"
        return f"{self.kind} trials, {each} each, {at_once}: {self.reason}"


def plan_trials(config: RunConfig, nodes: Sequence[Node], *, train_size: int) -> TrialPlan:
    """Choose the kind of trial, and as many slots as can run without waiting for each other.

    A slot's workers are counted node by node, since a worker lies on one node; a slot is only given out when
    all its workers fit beside those of the other slots, so that no two trials hold a part each and wait.

    Args:
        config: cluster, sweep and train count.
        nodes: Resources of each node of the cluster, CPU and GPU.
        train_size: Examples of the training split.

    Raises:
        ClusterError: Not even one trial fits.
        ConfigError: The kind asked for does not go with the scheduler.
    """
    cluster, sweep = config.cluster, config.sweep
    seen = train_size * config.train.epochs
    if sweep.trial != "auto":
        kind, reason = sweep.trial, f"sweep.trial is {sweep.trial}."
    elif cluster.workers == 1:
        kind, reason = "light", "cluster.workers is 1."
    elif seen <= SMALL_TRIAL:
        kind, reason = "light", f"{seen:,} examples a trial take less time than starting {cluster.workers} workers."
    else:
        kind, reason = "distributed", f"{seen:,} examples a trial are many, and cluster.workers is {cluster.workers}."
    if kind == "distributed" and sweep.scheduler == "pbt":
        raise ConfigError(
            "sweep.scheduler is pbt, and trials are distributed; it moves weights between trials of one process.",
            "Set sweep.trial to light, or choose another scheduler.",
        )
    each = {"CPU": cluster.cpus_per_worker} | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {})
    workers = cluster.workers if kind == "distributed" else 1
    fitting = sum(_fitting(node, each) for node in nodes) // workers
    if fitting == 0:
        asked = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
        offered = ", ".join(f"{node.get('CPU', 0):g} CPU" for node in nodes)
        raise ClusterError(
            f"A trial needs {workers} x {asked}; the cluster's nodes offer {offered}.",
            "Lower cluster.cpus_per_worker, cluster.gpus_per_worker or cluster.workers.",
        )
    slots = min(fitting, sweep.max_concurrent or fitting, max(sweep.trials, 1))
    # A distributed trial's own process only waits. Half a CPU for it would leave its workers none on 2 CPUs.
    own = each if kind == "light" else {"memory": 2.0**20}
    return TrialPlan(kind, reason, slots, own, workers)


def _fitting(node: Node, each: Mapping[str, float]) -> int:
    # Rounding would make 0.3 go into 0.9 two times.
    return min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in each.items())
