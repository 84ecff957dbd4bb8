"""Figures over answers where an example may have several labels, gathered in one pass.

Nothing here grows with the number of examples.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from rayft.evaluation.answers import PRESENT
from rayft.evaluation.calibration import sigmoid
from rayft.evaluation.measure import Reliability, wilson
from rayft.evaluation.ranking import LOG_ODDS_LIMIT, average_precision, num_bins

KEPT_MISTAKES = 12
BINS = 15
_DRAWS = 200


@dataclass(frozen=True)
class SetMistake:
    """A class that was answered and is not there, or is there and was not answered.

    Attributes:
        name: Name of the example.
        label: Number of the class.
        probability: That the network gave it.
        labels: Numbers of the classes that are there.
    """

    name: str
    label: int
    probability: float
    labels: tuple[int, ...]


@dataclass(frozen=True)
class LabelRow:
    """Figures of one class among several; None where a figure is not defined.

    Attributes:
        name: Of the class.
        support: Examples that have it.
        precision: Part of the examples answered with it that have it.
        precision_interval: 95 %, Wilson.
        recall: Part of the examples with it that were answered with it.
        recall_interval: 95 %, Wilson.
        f1: Harmonic mean of the two.
        f1_interval: 95 %, bootstrap over examples.
        average_precision: Of the order by probability.
        average_precision_interval: 95 %, bootstrap over examples.
    """

    name: str
    support: int
    precision: float | None
    precision_interval: tuple[float, float]
    recall: float | None
    recall_interval: tuple[float, float]
    f1: float | None
    f1_interval: tuple[float, float] | None
    average_precision: float | None
    average_precision_interval: tuple[float, float] | None


class SetFigures:
    """Sums over the examples of one split.

    Attributes:
        split: Name of the split.
        classes: Names of the classes.
        temperature: That the logits were divided by.
        examples: Number of examples.
        right: Examples whose set of classes is exactly right.
        counts: int64 [2, classes, bins]: examples with and without each class, by log-odds before scaling.
        labelled: int64 [classes], examples that have the class.
        predicted: int64 [classes], examples answered with it.
        both: int64 [classes].
        together: int64 [classes, classes], examples that have both classes.
        claimed: int64 [classes, classes], examples that have the first and were wrongly answered with the second.
    """

    def __init__(self, split: str, classes: tuple[str, ...], temperature: float) -> None:
        """Begin with no example."""
        size = len(classes)
        self.split, self.classes, self.temperature = split, classes, temperature
        self.examples = self.right = 0
        self.counts = np.zeros((2, size, num_bins(size)), np.int64)
        self.labelled, self.predicted, self.both = (np.zeros(size, np.int64) for _ in range(3))
        self.together, self.claimed = (np.zeros((size, size), np.int64) for _ in range(2))
        self._bins = np.zeros((2, 3, BINS))
        self._false: list[tuple[float, int, SetMistake]] = []
        self._missed: list[tuple[float, int, SetMistake]] = []

    def add(self, names: list[str], present: np.ndarray, probabilities: np.ndarray) -> None:
        """Count some more examples.

        Args:
            names: Of the examples.
            present: bool [n, classes].
            probabilities: float32 [n, classes], after temperature scaling.
        """
        answered = probabilities > PRESENT
        p = probabilities.astype(np.float64)
        with np.errstate(divide="ignore"):
            log_odds = (np.log(p) - np.log1p(-p)) * self.temperature
        self.examples += len(names)
        self.right += int((answered == present).all(axis=1).sum())
        self._count(log_odds, present)
        self.labelled += present.sum(axis=0)
        self.predicted += answered.sum(axis=0)
        self.both += (answered & present).sum(axis=0)
        numbers = present.astype(np.float64)
        self.together += np.rint(numbers.T @ numbers).astype(np.int64)
        self.claimed += np.rint(numbers.T @ (answered & ~present)).astype(np.int64)
        self._bins += [_sums_of_bins(sigmoid(log_odds), present), _sums_of_bins(p, present)]
        self._remember(self._false, names, present, p, answered & ~present, p)
        self._remember(self._missed, names, present, p, present & ~answered, 1 - p)

    @property
    def before(self) -> Reliability:
        """How often a class is there against its probability, before temperature scaling."""
        return Reliability.of_sums(*self._bins[0])

    @property
    def after(self) -> Reliability:
        """The same after it."""
        return Reliability.of_sums(*self._bins[1])

    @property
    def false_answers(self) -> list[SetMistake]:
        """Answered classes that are not there, the most certain first."""
        return [mistake for *_, mistake in sorted(self._false, key=lambda kept: (-kept[0], -kept[1]))]

    @property
    def missed(self) -> list[SetMistake]:
        """Classes that are there and were not answered, the least probable first."""
        return [mistake for *_, mistake in sorted(self._missed, key=lambda kept: (-kept[0], -kept[1]))]

    def rows(self) -> list[LabelRow]:
        """Return the figures of each class; the intervals' draws are the same each time."""
        ranked = average_precision(*self.counts)
        return [self._row(index, None if np.isnan(value) else float(value)) for index, value in enumerate(ranked)]

    def mean_average_precision(self) -> float:
        """Return the mean over the classes that occur; 0 without any."""
        each = average_precision(*self.counts)
        return float(np.nanmean(each)) if not np.isnan(each).all() else 0.0

    def macro_f1(self) -> float:
        """Return the mean F1 over the classes that occur among labels or answers; 0 without any."""
        total = self.labelled + self.predicted
        return float((2 * self.both[total > 0] / total[total > 0]).mean()) if total.any() else 0.0

    def _row(self, index: int, ranked: float | None) -> LabelRow:
        hits, support, claimed = int(self.both[index]), int(self.labelled[index]), int(self.predicted[index])
        f1s, precisions = self._draws(index)
        return LabelRow(
            self.classes[index],
            support,
            hits / claimed if claimed else None,
            wilson(hits, claimed),
            hits / support if support else None,
            wilson(hits, support),
            2 * hits / (support + claimed) if support + claimed else None,
            _middle(f1s),
            ranked,
            _middle(precisions),
        )

    def _draws(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """F1 and average precision of a class in 200 draws of the examples, float [draws].

        Each example comes a Poisson number of times, mean 1: the bootstrap for sums (Hanley and MacGibbon 2006),
        whose cost does not grow with the examples.
        """
        random = np.random.default_rng(index)
        filled = np.flatnonzero(self.counts[:, index].any(axis=0))
        drawn = random.poisson(self.counts[:, index, filled], (_DRAWS, 2, len(filled)))
        # Bins from 0 on are those of probability .5 and more.
        answered = filled >= self.counts.shape[2] // 2
        hits, wrong = drawn[:, 0, answered].sum(axis=1), drawn[:, 1, answered].sum(axis=1)
        total = drawn[:, 0].sum(axis=1) + hits + wrong
        f1 = np.where(total > 0, 2 * hits / np.maximum(total, 1), np.nan)
        return f1, average_precision(drawn[:, 0], drawn[:, 1])

    def _count(self, log_odds: np.ndarray, present: np.ndarray) -> None:
        classes, bins = self.counts.shape[1:]
        place = np.floor((log_odds + LOG_ODDS_LIMIT) * (bins / (2 * LOG_ODDS_LIMIT)))
        index = np.clip(np.nan_to_num(place), 0, bins - 1).astype(np.int64) + np.arange(classes) * bins
        for part, chosen in enumerate((index[present], index[~present])):
            self.counts[part] += np.bincount(chosen, minlength=classes * bins).reshape(classes, bins)

    def _remember(
        self,
        kept: list[tuple[float, int, SetMistake]],
        names: list[str],
        present: np.ndarray,
        probabilities: np.ndarray,
        wrong: np.ndarray,
        certainty: np.ndarray,
    ) -> None:
        """Keep the mistakes of which the network was most certain; of equal ones the first."""
        rows, labels = np.nonzero(wrong)
        for at in np.argsort(-certainty[rows, labels], kind="stable")[:KEPT_MISTAKES]:
            row, label = int(rows[at]), int(labels[at])
            there = tuple(np.flatnonzero(present[row]).tolist())
            mistake = SetMistake(names[row], label, float(probabilities[row, label]), there)
            number = (self.examples - len(names) + row) * len(self.classes) + label
            heapq.heappush(kept, (float(certainty[row, label]), -number, mistake))
            if len(kept) > KEPT_MISTAKES:
                heapq.heappop(kept)


def _sums_of_bins(probability: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Sort all probabilities into (0, 1/bins], ...: how many, how many are so, their sum; [3, bins]."""
    flat = probability.ravel()
    index = np.clip(np.ceil(flat * BINS).astype(int) - 1, 0, BINS - 1)
    weights = (None, present.ravel().astype(float), flat)
    return np.stack([np.bincount(index, weight, BINS) for weight in weights])


def _middle(draws: np.ndarray) -> tuple[float, float] | None:
    """Return the middle 95 % of the draws in which the figure is defined; None where it is in too few."""
    known = draws[~np.isnan(draws)]
    if len(known) < _DRAWS // 2:
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
