"""What a network is trained for: whether pictures have several labels, and how much each class counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rayft.config import RunConfig
from rayft.data.balance import class_weights
from rayft.data.dataset import Dataset
from rayft.errors import ConfigError

METRICS = {
    False: ("accuracy", "top5", "macro_f1", "auc", "log_loss", "ece"),
    True: ("accuracy", "macro_f1", "auc", "map", "log_loss", "ece"),
}


@dataclass(frozen=True, eq=False)
class Objective:
    """What the labels of a dataset ask of a network.

    Attributes:
        multi_label: Whether a picture may have any number of the classes; targets are then float32
            [b, classes] and probabilities come from a sigmoid each.
        class_weights: float32 [classes], factor of each class in the loss; None for none.
    """

    multi_label: bool = False
    class_weights: np.ndarray | None = None


def make_objective(config: RunConfig, dataset: Dataset) -> Objective:
    """Return the objective of a run.

    Raises:
        ConfigError: Loss, metric or class weights do not suit the labels.
    """
    several, train = dataset.multi_label, config.train
    kind = "several labels" if several else "one label"
    if train.metric not in METRICS[several]:
        raise ConfigError(
            f"train.metric is {train.metric}, but each picture has {kind}; {', '.join(METRICS[several])} are allowed.",
            "Choose one of these.",
        )
    if several and train.loss in ("cross_entropy", "focal"):
        raise ConfigError(
            f"train.loss is {train.loss}, but pictures have several labels; auto, binary_cross_entropy or "
            "module:function is allowed.",
            "Choose one of these.",
        )
    if several and ":" in train.loss and train.class_weights != "none":
        raise ConfigError(
            f"train.class_weights is {train.class_weights} with several labels and the own loss {train.loss!r}.",
            "Set it to none, and weigh the classes inside your loss.",
        )
    return Objective(several, class_weights(config, dataset.targets("train"), dataset.labels))
