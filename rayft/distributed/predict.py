"""Batch inference spread over a cluster with Ray Data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data

from rayft.config import ClusterConfig
from rayft.data.inputs import Inputs
from rayft.distributed.cluster import connect
from rayft.errors import RunFailed
from rayft.serve.answers import Answer

# Rows of one task; small enough that the workers end at about the same time.
_ROWS_PER_BLOCK = 256
_BATCH = 32


def predict_on_cluster(
    model: str, inputs: Inputs, num_classes: int, cluster: ClusterConfig, registry: str | None = None
) -> Iterator[list[Answer]]:
    """Yield the answers to all inputs in order, some at a time.

    Args:
        model: As of ``rayft.serve.predictor.load``; every machine of the cluster can read it.
        inputs: Pictures, that every machine of the cluster can read.
        num_classes: Width of the answers.
        cluster: Where, and with how many workers; each holds a predictor.
        registry: As of ``rayft.serve.predictor.load``.

    Raises:
        ClusterError: The cluster does not answer, or is too small.
        RunFailed: A worker broke down.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with connect(cluster):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        size = max(1, min(_ROWS_PER_BLOCK, len(inputs) // cluster.workers))
        # Blocks that are there already: tasks that made them would wait for CPUs, which the workers hold.
        blocks = [
            pa.table({"id": np.arange(start, min(start + size, len(inputs)))}) for start in range(0, len(inputs), size)
        ]
        answers = ray.data.from_arrow(blocks).map_batches(
            _Answerer,
            # Once into the object store, and not with each task.
            fn_constructor_args=(model, registry, ray.put(inputs), cluster.cpus_per_worker, num_classes),
            batch_size=_BATCH,
            batch_format="numpy",
            compute=ray.data.ActorPoolStrategy(size=cluster.workers),
            num_cpus=cluster.cpus_per_worker,
            num_gpus=cluster.gpus_per_worker or None,
        )
        try:
            for batch in answers.iter_batches(batch_size=None, batch_format="numpy"):
                rows = zip(batch["id"].tolist(), batch["probabilities"], batch["error"].tolist(), strict=True)
                yield [
                    Answer(inputs.names[row].as_py(), None if error else probabilities, error or None)
                    for row, probabilities, error in rows
                ]
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # An error of ours ends with its remedy, which is none for the driver.
            reason = next((line for line in reversed(lines) if not line.startswith("fix: ")), "no reason given")
            raise RunFailed(
                f"A worker of the prediction failed: {reason.rstrip('.')}.",
                "Check that every machine of the cluster can read the model and the inputs.",
            ) from error


class _Answerer:
    """Holds a predictor in a process of its own; Ray Data calls it with rows."""

    def __init__(self, model: str, registry: str | None, inputs: Any, cpus: float, num_classes: int) -> None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(max(1, int(cpus)))
        tf.config.threading.set_inter_op_parallelism_threads(max(1, int(cpus)))
        from rayft.serve.predictor import load

        self._predictor = load(model, registry)
        self._inputs: Inputs = ray.get(inputs)
        self._num_classes = num_classes

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer a batch of ``id`` int64 [b]; adds ``probabilities`` [b, classes] and ``error``."""
        from rayft.serve.batch import answer_rows

        answers = answer_rows(self._predictor, self._inputs, batch["id"].tolist())
        nothing = np.zeros(self._num_classes, np.float32)
        return {
            "id": batch["id"],
            "probabilities": np.stack([nothing if a.probabilities is None else a.probabilities for a in answers]),
            "error": np.array([a.error or "" for a in answers], dtype=object),
        }
