"""What must be known or computed once before the first trial."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import ray

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.distributed.devices import plan_devices, set_up_tensorflow
from rayft.distributed.worker import enter_driver_folder
from rayft.sweep.plan import TrialPlan
from rayft.sweep.space import DEPTH, Space

POLL_S = 0.3
# Trials that differ in these have prefixes of their own.
_PREFIX_FIELDS = ("data.", "model.backbone", "model.weights", "train.precision", "prefix_cache.")


def read_blocks(config: RunConfig, plan: TrialPlan, check: Callable[[], None]) -> list[str]:
    """Return the names of the backbone's blocks; refuses depths that it does not have.

    ``check`` is called several times a second, and may raise.

    Raises:
        ModelError: The backbone cannot be built, or a searched depth is none of its depths.
    """
    dimension = config.sweep.space.get(DEPTH)
    depths = list(dimension.values or []) if dimension else []
    # Meanwhile the processes of the other slots import TensorFlow, which takes them as long.
    for _ in range(plan.slots - 1):
        _start(_warm_up, config, config.model_dump(mode="json"))
    return _result(_start(_read_blocks, config, config.model_dump(mode="json"), depths), check)


def build_prefix(
    config: RunConfig,
    dataset: Dataset,
    space: Space,
    plan: TrialPlan,
    tell: Callable[[str], None],
    check: Callable[[], None],
) -> list[dict[str, Any]]:
    """Compute the activations at all searched boundaries in one pass, by as many processes as there are slots.

    Nothing is done where trials differ in what the prefix computes, or where depths are endless: each trial then
    decides for itself, as ``rayft train`` does. ``check`` is called several times a second, and may raise.

    Returns:
        The fields of an ``Ensured`` for each depth.
    """
    depth = space.get(DEPTH)
    depths = [config.freeze.depth] if depth is None else depth.values
    shared = not any(path.startswith(_PREFIX_FIELDS) for path in space)
    if config.prefix_cache.mode == "off" or not depths or not any(depths) or not shared:
        return []
    tell("computing the frozen prefix")
    passes = config.train.epochs * config.sweep.trials / len(depths)
    shares = [(rank, plan.slots) for rank in range(plan.slots)]
    tree = config.model_dump(mode="json")
    tasks = [_start(_build_prefix, config, tree, dataset, depths, passes, share) for share in shares]
    # Every process answers for all depths, when all shares are there.
    answers = [_result(task, check) for task in tasks]
    # Whichever process looked first has found what was damaged.
    for line in (notice for notices, _ in answers for notice in notices):
        tell(line)
    ensured = answers[0][1]
    for each in ensured:
        tell(f"prefix cache, depth {each['depth']}: {each['reason']}")
    return ensured


def _build_prefix(
    tree: dict[str, Any], dataset: Dataset, depths: list[Any], passes: float, share: tuple[int, int]
) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns what was found damaged, and the fields of an ``Ensured`` for each depth."""
    config = RunConfig.model_validate(tree)
    set_up_tensorflow(plan_devices(config.cluster))
    from rayft.prefix.ensure import ensure_cache

    notices: list[str] = []

    def progress(state: dict[str, Any]) -> None:
        if "notice" in state:
            notices.append(state["notice"])

    ensured = ensure_cache(config, dataset, depths, passes=passes, share=share, progress=progress)
    # As plain values: their class would bring TensorFlow into the driver.
    return notices, [asdict(each) for each in ensured]


def _warm_up(tree: dict[str, Any]) -> None:
    set_up_tensorflow(plan_devices(RunConfig.model_validate(tree).cluster))
    import rayft.learn.session  # noqa: F401


def _start(function: Callable[..., Any], config: RunConfig, *arguments: Any) -> ray.ObjectRef:
    """Start a function in a process of the cluster, with a worker's resources."""
    driver = {"driver_folder": os.getcwd(), "driver_path": list(sys.path)}
    task = ray.remote(_with_driver_folder).options(
        num_cpus=config.cluster.cpus_per_worker, num_gpus=config.cluster.gpus_per_worker, max_retries=2
    )
    return task.remote(driver, function, *arguments)


def _result(reference: ray.ObjectRef, check: Callable[[], None]) -> Any:
    """Wait for what a task returns; our errors pass."""
    while not ray.wait([reference], timeout=POLL_S)[0]:
        check()
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


def _with_driver_folder(driver: dict[str, Any], function: Callable[..., Any], *arguments: Any) -> Any:
    enter_driver_folder(driver)
    return function(*arguments)


def _read_blocks(tree: dict[str, Any], depths: list[Any]) -> list[str]:
    config = RunConfig.model_validate(tree)
    set_up_tensorflow(plan_devices(config.cluster))
    from rayft.model.freeze import resolve_depth
    from rayft.model.network import build_network

    # Weights do not change the blocks.
    if not config.model.backbone.endswith(".keras"):
        tree = {**tree, "model": {**tree["model"], "weights": "none"}}
    network = build_network(RunConfig.model_validate(tree), num_classes=2)
    for depth in depths:
        resolve_depth(depth, network.blocks)
    return [block.name for block in network.blocks]
