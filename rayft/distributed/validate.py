"""What would stop a run, found before it starts, and what it will take."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from os import PathLike

import ray
import tensorflow as tf

from rayft.capacity import check_capacity, workers_of_nodes
from rayft.config import BLOCKS_RATE, RunConfig, is_auto, load_config
from rayft.data.dataset import Dataset
from rayft.data.notices import class_notices
from rayft.data.order import steps_per_epoch
from rayft.data.own_layers import make_layer
from rayft.distributed.cluster import connect, embedded_resources
from rayft.distributed.devices import plan_devices, set_up_tensorflow
from rayft.distributed.findings import Finding, Validation, Verdict
from rayft.distributed.group import OnProgress
from rayft.distributed.run import prepare_dataset
from rayft.distributed.worker import describe_error
from rayft.errors import ClusterError, ConfigError, RayftError, RunFailed
from rayft.imports import load_object
from rayft.learn.batch_size import available_memory, choose_batch_size, largest_batch, upper_bound
from rayft.learn.estimate import Estimate, estimate_run
from rayft.learn.keras_optimizer import get_optimizer
from rayft.learn.probe import Probe, measure_run
from rayft.learn.range_test import FEWEST_STEPS
from rayft.learn.remarks import start_notices
from rayft.learn.room import check_memory, check_room, require_batch_fits
from rayft.model.network import Network, build_network
from rayft.prefix.decide import Decision
from rayft.prefix.foresee import Foreseen, foresee_prefix
from rayft.quiet import native_start_up
from rayft.runs import BATCH_SIZE, RATE, RunFolder, with_choices
from rayft.storage import Storage
from rayft.tracking.events import open_tracking

# Depths are counted in blocks, so any number of classes does where the data does not say it.
_ANY_CLASSES = 2


def validate_file(
    path: str | PathLike[str], overrides: tuple[str, ...] = (), *, on_progress: OnProgress = lambda state: None
) -> Validation:
    """Validate a config file; sets up this process as a worker's, so that the probe tells of one."""
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        return Validation((Finding("config", "failed", *error.args),), None)
    if not config.cluster.gpus_per_worker:
        # As Ray does for its workers.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with native_start_up():
        set_up_tensorflow(plan_devices(config.cluster))
    return validate(config, on_progress=on_progress)


def validate(config: RunConfig, *, on_progress: OnProgress = lambda state: None) -> Validation:
    """Look for all that would stop a run of ``config``, and measure what it will take.

    A check that fails does not keep others from being made, as far as they can do without it. Only the caches of
    the data are written; the storage is as before.

    Args:
        config: The run.
        on_progress: Called with what is being checked.
    """
    return _Validator(config, on_progress).run()


class _Validator:
    def __init__(self, config: RunConfig, on_progress: OnProgress) -> None:
        self._config, self._tell = config, on_progress
        self._findings: list[Finding] = []
        # Whatever takes memory now, the driver of the run will take too.
        self._memory = available_memory()
        self._share = config.cluster.workers
        self._folder: RunFolder | None = None

    def run(self) -> Validation:
        self._note("config", "ok", f"{self._config.name}: every field is allowed")
        self._check_imports()
        self._check_tracking()
        self._check_storage()
        dataset = self._check_data()
        self._check_cluster()
        network = self._check_network(dataset)
        estimate = None
        if dataset is not None and network is not None:
            estimate = self._measure(dataset, network)
        else:
            self._note("time and memory", "warning", "not measured: that needs data and network")
        return Validation(tuple(self._findings), estimate)

    def _note(self, check: str, verdict: Verdict, finding: str) -> None:
        self._findings.append(Finding(check, verdict, finding))

    @contextlib.contextmanager
    def _failing(self, check: str, *, again: bool = False) -> Iterator[None]:
        """Turn an error of ours into a finding; ``again`` raises it besides."""
        self._tell({"phase": f"checking {check}"})
        try:
            yield
        except RayftError as error:
            self._findings.append(Finding(check, "failed", *error.args))
            if again:
                raise

    def _check_imports(self) -> None:
        config, check = self._config, "own code"
        paths = {"train.step": config.train.step, "train.loss": config.train.loss}
        before = len(self._findings)
        for purpose, path in paths.items():
            if path and ":" in path:
                with self._failing(check):
                    load_object(path, purpose)
        with self._failing("optimizer"):
            rate = BLOCKS_RATE if is_auto(config.optim.learning_rate) else config.optim.learning_rate
            get_optimizer(config.optim.model_copy(update={"learning_rate": rate}))
        for layer in config.data.augment.layers:
            with self._failing(check):
                make_layer(layer.name, json.dumps(layer.config, sort_keys=True))
        if len(self._findings) == before:
            named = [f"{purpose} {path}" for purpose, path in paths.items() if path and ":" in path]
            self._note(check, "ok", ", ".join([*named, f"optim.name {config.optim.name}"]) + " can be loaded")

    def _check_storage(self) -> None:
        with self._failing("storage"):
            folder = RunFolder.of(self._config)
            folder.storage.check_writable()
            config = with_choices(self._config, folder.choices())
            status = folder.status(config)
            self._config = config
            if status == "finished":
                said = f"the run in {folder.storage} has finished; `rayft train` would change nothing without --fresh"
                self._note("storage", "warning", said)
            else:
                does = "starts anew" if status == "new" else "goes on with what an earlier start left"
                self._note("storage", "ok", f"{folder.storage} can be written; the run {does}")
            self._folder = folder

    def _check_tracking(self) -> None:
        track = self._config.track
        if track.hook is None and track.mlflow.uri is None:
            return
        with self._failing("tracking"):
            # Opening tells nobody anything yet; it imports what is needed.
            open_tracking(self._config, RunFolder(Storage.open(os.curdir)))
            self._note("tracking", "ok", "its code can be loaded; servers were not asked")

    def _check_data(self) -> Dataset | None:
        with self._failing("data"):
            dataset = prepare_dataset(self._config, self._tell)
            sizes = ", ".join(f"{size:,} {split}" for split, size in _sizes(dataset).items() if size)
            labels = "several labels each" if dataset.multi_label else "one label each"
            self._note("data", "ok", f"{sizes}; {len(dataset.labels)} classes, {labels}; every picture decodes")
            return dataset
        return None

    def _check_cluster(self) -> None:
        cluster = self._config.cluster
        with self._failing("cluster"):
            if cluster.address is None:
                nodes = [embedded_resources()]
                check_capacity(cluster, nodes[0])
            else:
                with connect(cluster):
                    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            taken = workers_of_nodes(cluster, nodes)
            if sum(taken) < cluster.workers:
                raise ClusterError(
                    f"cluster.workers is {cluster.workers}; of {cluster.cpus_per_worker:g} CPUs and "
                    f"{cluster.gpus_per_worker:g} GPUs each, the {len(nodes)} nodes hold {sum(taken)}, since a worker "
                    "lies on one node.",
                    "Lower cluster.workers, cluster.cpus_per_worker or cluster.gpus_per_worker.",
                )
            self._share = max(taken)
            if cluster.address is not None:
                # Of memory, Ray counts what it was told to offer.
                self._memory = int(min(node.get("memory", self._memory) for node in nodes))
            where = "this machine" if cluster.address is None else f"{len(nodes)} nodes"
            have = ", ".join(f"{_total(nodes, name):g} {name}" for name in ("CPU", "GPU"))
            asked = f"{cluster.workers} x {cluster.cpus_per_worker:g} CPU, {cluster.gpus_per_worker:g} GPU"
            self._note("cluster", "ok", f"{where}: {have}; asked for {asked}")

    def _check_network(self, dataset: Dataset | None) -> Network | None:
        network = None
        classes = _ANY_CLASSES if dataset is None else len(dataset.labels)
        with self._failing("network"):
            network = build_network(self._config, classes)
            frozen = network.phases[-1].depth
            trained = sum(math.prod(variable.shape) for variable in network.model.trainable_variables)
            weights = sum(math.prod(variable.shape) for variable in network.model.weights)
            self._note(
                "network",
                "ok",
                f"{self._config.model.backbone}, {network.image_size[0]} x {network.image_size[1]} pixels: "
                f"{frozen} of {len(network.blocks)} blocks frozen{_in_phases(network)}, {trained:,} of {weights:,} "
                "weights train" + (" at first" if len(network.phases) > 1 else ""),
            )
        if dataset is not None and network is None:
            labels = (dataset.targets(split).numbers for split in ("train", "validation"))
            for notice in class_notices(*labels, dataset.labels):
                self._note("data", "warning", notice)
        return network

    def _measure(self, dataset: Dataset, network: Network) -> Estimate | None:
        """Settle what is auto, then time the run's own steps."""
        config = self._config
        try:
            with self._failing("memory", again=True):
                require_batch_fits(config, network, len(dataset.labels), self._memory // self._share)
                if is_auto(config.data.global_batch_size):
                    config = self._settle_batch_size(dataset)
        except RayftError:
            return None
        steps = config.train.epochs * steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
        given = config
        if is_auto(config.optim.learning_rate):
            with self._failing("learning rate"):
                if steps < FEWEST_STEPS:
                    raise ConfigError(
                        f"optim.learning_rate is auto; its test takes {FEWEST_STEPS} steps or more, the run has "
                        f"{steps}.",
                        "Give a learning rate, or train longer.",
                    )
            config = with_choices(config, {RATE: BLOCKS_RATE})
        for notice in start_notices(config, network, dataset, steps):
            self._note("training", "warning", notice)
        foreseen = self._foresee_prefix(config, dataset, network)
        probe = self._probe(config, dataset, network, foreseen)
        if probe is None:
            return None
        estimate = estimate_run(
            given,
            probe,
            network.phases,
            _sizes(dataset),
            prefix_s=foreseen.build_s,
            prefix_bytes=foreseen.missing_bytes,
        )
        with self._failing("memory"):
            self._note("memory", "ok", check_memory(estimate.worker_bytes, self._share, self._memory))
        if self._folder is not None:
            with self._failing("disk"):
                self._note("disk", "ok", check_room(self._folder.storage, estimate.disk_bytes))
        return estimate

    def _foresee_prefix(self, config: RunConfig, dataset: Dataset, network: Network) -> Foreseen:
        if self._folder is not None:
            with self._failing("prefix cache"):
                foreseen = foresee_prefix(config, dataset, network)
                word = "used" if foreseen.decision.used else "not used"
                self._note("prefix cache", "ok", f"{word}: {foreseen.decision.reason}")
                return foreseen
        return Foreseen(Decision(False, "there is no place for it"))

    def _settle_batch_size(self, dataset: Dataset) -> RunConfig:
        """Choose as the run will, for workers that are all like this process."""
        config, train_size = self._config, dataset.size("train")
        workers = config.cluster.workers
        most = max(1, -(-upper_bound(train_size) // workers))
        local = largest_batch(config, len(dataset.labels), most=most, memory=self._memory // self._share)
        size = choose_batch_size(local, workers, train_size)
        self._note("batch size", "ok", f"auto would choose about {size}; the workers measure it again")
        return with_choices(config, {BATCH_SIZE: size})

    def _probe(self, config: RunConfig, dataset: Dataset, network: Network, foreseen: Foreseen) -> Probe | None:
        with self._failing("training"):
            try:
                probe = measure_run(config, dataset, network, features=foreseen.features)
            except RayftError:
                raise
            except tf.errors.ResourceExhaustedError:
                raise RunFailed(
                    "A worker's part of a batch does not fit into the GPU.",
                    "Lower data.global_batch_size, or raise train.accumulate_steps.",
                ) from None
            # The user's own code may raise anything.
            except Exception as error:
                raise RunFailed(describe_error(error, "A step of the run"), "Mend that line.") from error
            seconds = ", ".join(
                f"{1e3 * each:.1f} ms with {depth} blocks frozen" for depth, each in probe.step_s.items()
            )
            self._note("training", "ok", f"real steps taken: {seconds}")
            return probe
        return None


def _sizes(dataset: Dataset) -> dict[str, int]:
    return {split: dataset.size(split) for split in ("train", "validation", "test")}


def _total(nodes: Sequence[dict[str, float]], name: str) -> float:
    return sum(node.get(name, 0.0) for node in nodes)


def _in_phases(network: Network) -> str:
    return f" in the last of {len(network.phases)} phases" if len(network.phases) > 1 else ""
