"""What must be known or computed once before the first trial."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import ray

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.distributed.cluster import on_this_node
from rayft.distributed.devices import plan_devices, set_up_tensorflow
from rayft.distributed.worker import enter_driver_folder
from rayft.sweep.plan import TrialPlan
from rayft.sweep.space import DEPTH, Space

POLL_S = 0.3
_TELL_EVERY_S = 1.0
# Trials that differ in these have prefixes of their own.
_PREFIX_FIELDS = ("data.", "model.backbone", "model.weights", "train.precision", "prefix_cache.")


@dataclass(frozen=True)
class Prepared:
    """What one process found out and computed.

    Attributes:
        notices: What was found damaged.
        ensured: The fields of an ``Ensured`` for each depth; empty where trials share no cache.
    """

    notices: list[str]
    ensured: list[dict[str, Any]]


class Preparation:
    """What is done once before the first trial, by as many processes as there are slots.

    Depths that the backbone does not have are refused. Then the activations at all searched boundaries are computed
    in one pass, but where trials differ in what the prefix computes, or where depths are endless: each trial then
    decides for itself, as ``rayft train`` does.

    Light trials run in the processes that did this, so that TensorFlow is imported once a slot.
    """

    def __init__(self, config: RunConfig, space: Space, plan: TrialPlan) -> None:
        """Nothing is computed yet."""
        dimension = space.get(DEPTH)
        depths = [config.freeze.depth] if dimension is None else list(dimension.values or [])
        shared = not any(path.startswith(_PREFIX_FIELDS) for path in space)
        self.is_shared = config.prefix_cache.mode != "off" and any(depths) and shared
        self._passes = config.train.epochs * config.sweep.trials / len(depths) if self.is_shared else None
        self._config, self._depths = config, depths
        # Where nothing is shared, the processes of light trials start at least.
        self._count = plan.slots if self.is_shared or plan.kind == "light" else 1
        self._handed = 0
        self._shares_done: dict[int, float] = {}
        self._answers: dict[int, Prepared] = {}

    @property
    def is_done(self) -> bool:
        """Whether every share is there."""
        return len(self._answers) == self._count

    @property
    def share_done(self) -> float | None:
        """How much of the pass over the pictures is done, 0 to 1; None where there is none."""
        if not self.is_shared:
            return None
        done = [1.0 if number in self._answers else self._shares_done.get(number, 0.0) for number in range(self._count)]
        return sum(done) / self._count

    @property
    def ensured(self) -> list[dict[str, Any]]:
        """The fields of an ``Ensured`` for each depth, once it is done."""
        # Every process answers for all depths, when all shares are there.
        return self._answers[0].ensured

    def next(self) -> dict[str, Any] | None:
        """Return the arguments of ``prepare`` for the next process; None once each share has one."""
        if self._handed == self._count:
            return None
        share = (self._handed, self._count)
        self._handed += 1
        return {"depths": self._depths, "passes": self._passes, "share": share}

    def progressed(self, number: int, done: float) -> None:
        """Take how much of its share a process has done, 0 to 1; one that took another's place begins anew."""
        self._shares_done[number] = done

    def answered(self, number: int, answer: Prepared) -> None:
        """Take what the process of a share returned."""
        self._answers[number] = answer

    def lines(self) -> list[str]:
        """Say what was found and decided."""
        # Whichever process looked first has found what was damaged.
        damaged = [line for answer in self._answers.values() for line in answer.notices]
        return [*damaged, *(f"prefix cache, depth {each['depth']}: {each['reason']}" for each in self.ensured)]

    def run_as_tasks(self, dataset: Dataset, check: Callable[[], None]) -> None:
        """Do it in processes that end with it; ``check`` is called several times a second, and may raise."""
        tree, arguments = self._config.model_dump(mode="json"), []
        while (each := self.next()) is not None:
            arguments.append(each)
        board = _Board.options(scheduling_strategy=on_this_node()).remote()  # type: ignore[attr-defined]
        tasks = [_start(_prepare_task, self._config, tree, dataset, board, each) for each in arguments]

        def look() -> None:
            check()
            # The board's process takes a moment to start, and may be gone after a signal.
            read = board.read.remote()
            if ray.wait([read], timeout=POLL_S)[0]:
                self._shares_done.update(ray.get(read))

        for number, task in enumerate(tasks):
            self.answered(number, _result(task, look))


@ray.remote(num_cpus=0)
class _Board:
    """Shows the driver how far its tasks are."""

    def __init__(self) -> None:
        self._done: dict[int, float] = {}

    def tell(self, number: int, done: float) -> None:
        self._done[number] = done

    def read(self) -> dict[int, float]:
        return self._done


def prepare(
    config: RunConfig,
    dataset: Dataset,
    build: Callable[[RunConfig, int], Any] | None = None,
    *,
    depths: list[Any],
    passes: float | None,
    share: tuple[int, int],
    tell: Callable[[float], object] = lambda done: None,
) -> Prepared:
    """Do the part of a process that has set up TensorFlow.

    Args:
        config: The sweep.
        dataset: Train and validation examples.
        build: Gives the network of a config and number of classes; built anew where not given.
        depths: Values of ``freeze.depth``.
        passes: Epochs x trials of a depth, for the cost model; None where nothing is computed for all trials.
        share: Number of this process, and their count.
        tell: Called about once a second with how much of its share is done, 0 to 1; what it raises ends the pass.

    Raises:
        ModelError: The backbone cannot be built, or has no such depth.
        StorageError: The cache cannot be written.
    """
    if passes is None:
        from rayft.model.freeze import resolve_depth

        network = _skeleton(config)
        for depth in depths:
            resolve_depth(depth, network.blocks)
        return Prepared([], [])
    from rayft.model.network import build_network
    from rayft.prefix.ensure import ensure_cache

    notices: list[str] = []
    told_at = time.monotonic()

    def progress(state: dict[str, Any]) -> None:
        nonlocal told_at
        if "notice" in state:
            notices.append(state["notice"])
        elif "share" in state and time.monotonic() - told_at > _TELL_EVERY_S:
            told_at = time.monotonic()
            tell(state["share"])

    ensured = ensure_cache(
        config, dataset, depths, passes=passes, share=share, progress=progress, build=build or build_network
    )
    # As plain values: their class would bring TensorFlow into the driver.
    return Prepared(notices, [asdict(each) for each in ensured])


def read_blocks(config: RunConfig, check: Callable[[], None]) -> list[str]:
    """Return the names of the backbone's blocks.

    ``check`` is called several times a second, and may raise.

    Raises:
        ModelError: The backbone cannot be built.
    """
    return _result(_start(_read_blocks, config, config.model_dump(mode="json")), check)


def _read_blocks(tree: dict[str, Any]) -> list[str]:
    config = RunConfig.model_validate(tree)
    set_up_tensorflow(plan_devices(config.cluster))
    return [block.name for block in _skeleton(config).blocks]


def _skeleton(config: RunConfig) -> Any:
    """Build the network; weights do not change its blocks."""
    from rayft.model.network import build_network

    if not config.model.backbone.endswith(".keras"):
        config = config.model_copy(update={"model": config.model.model_copy(update={"weights": "none"})})
    return build_network(config, num_classes=2)


def _prepare_task(tree: dict[str, Any], dataset: Dataset, board: Any, arguments: dict[str, Any]) -> Prepared:
    config = RunConfig.model_validate(tree)
    set_up_tensorflow(plan_devices(config.cluster))
    number = arguments["share"][0]
    return prepare(config, dataset, tell=lambda done: board.tell.remote(number, done), **arguments)


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
