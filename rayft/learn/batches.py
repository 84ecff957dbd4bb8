"""One rank's batches of every split of a run."""

from __future__ import annotations

import tensorflow as tf

from rayft.config import RunConfig
from rayft.data.dataset import Dataset
from rayft.data.evaluation_batches import evaluation_batches
from rayft.data.features import Features
from rayft.data.order import replica_batch_size, steps_per_epoch
from rayft.data.training_batches import train_batches
from rayft.learn.place import Place


class Batches:
    """Makes each pipeline once, since tracing it takes seconds.

    Attributes:
        dataset: The examples.
        steps_per_epoch: Global batches that cover the training split once.
    """

    def __init__(
        self,
        dataset: Dataset,
        config: RunConfig,
        image_size: tuple[int, int],
        place: Place,
        threads: int = 2,
        features: Features | None = None,
    ) -> None:
        """Bind the data to this rank; pipelines are made when they are first asked for.

        Args:
            dataset: The examples.
            config: data, seed and train.epochs count.
            image_size: Height and width of the pictures.
            place: This process among the workers.
            threads: Pictures decoded at once.
            features: What was computed of the pictures before; empty where they are read themselves.
        """
        self.dataset = dataset
        self.steps_per_epoch = steps_per_epoch(dataset.size("train"), config.data.global_batch_size)
        self._config = config
        self._image_size = image_size
        self._place = place
        self._threads = threads
        self._features = features
        self._train: dict[int, tf.data.Dataset] = {}
        self._evaluation: dict[str, tf.data.Dataset] = {}

    def train(self, start_step: int = 0) -> tf.data.Dataset:
        """Return this rank's part of every global batch from a step to the end of the run."""
        if start_step not in self._train:
            self._train[start_step] = train_batches(
                self.dataset,
                self._config,
                self._image_size,
                rank=self._place.rank,
                num_workers=self._place.num_workers,
                start_step=start_step,
                threads=self._threads,
                features=self._features,
            )
        return self._train[start_step]

    def evaluation(self, split: str) -> tf.data.Dataset:
        """Return this rank's part of a split that is not empty."""
        part_size = -(-self._config.data.global_batch_size // self._config.train.accumulate_steps)
        if split not in self._evaluation:
            self._evaluation[split] = evaluation_batches(
                self.dataset,
                self._config,
                self._image_size,
                split,
                rank=self._place.rank,
                num_workers=self._place.num_workers,
                # What fits into memory in training fits here.
                batch_size=replica_batch_size(part_size, self._place.num_workers),
                threads=self._threads,
                features=self._features,
            )
        return self._evaluation[split]
