"""Figures over predictions: intervals, per-class tables, reliability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Two-sided 95 % of the normal distribution.
Z95 = 1.959963984540054


def wilson(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Return the score interval of a proportion; (0, 1) without trials.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22(158).
    """
    if trials == 0:
        return 0.0, 1.0
    proportion, square = successes / trials, z * z
    middle = (proportion + square / (2 * trials)) / (1 + square / trials)
    spread = z / (1 + square / trials) * np.sqrt(proportion * (1 - proportion) / trials + square / (4 * trials**2))
    return max(0.0, float(middle - spread)), min(1.0, float(middle + spread))


@dataclass(frozen=True)
class ClassRow:
    """Figures of one class; precision is None where it was never predicted, recall where it never occurs."""

    name: str
    support: int
    precision: float | None
    precision_interval: tuple[float, float]
    recall: float | None
    recall_interval: tuple[float, float]
    f1: float | None


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count label (row) against prediction (column), int64 [classes, classes]."""
    return np.bincount(labels.astype(np.int64) * classes + predicted, minlength=classes**2).reshape(classes, classes)


def class_rows(confusion: np.ndarray, names: tuple[str, ...]) -> list[ClassRow]:
    """Return precision, recall and F1 of each class, the proportions with their 95 % Wilson intervals."""
    rows = []
    for index, name in enumerate(names):
        hits, support, claimed = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
        rows.append(
            ClassRow(
                name,
                int(support),
                float(hits / claimed) if claimed else None,
                wilson(hits, claimed),
                float(hits / support) if support else None,
                wilson(hits, support),
                float(2 * hits / (support + claimed)) if support + claimed else None,
            )
        )
    return rows


@dataclass(frozen=True)
class Reliability:
    """How confidence compares with accuracy; arrays are [bins], NaN in empty bins.

    Attributes:
        examples: Number of examples.
        confidence: Mean confidence.
        accuracy: Part that is right.
    """

    examples: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @classmethod
    def of_sums(cls, examples: np.ndarray, right: np.ndarray, confidence: np.ndarray) -> Reliability:
        """Take sums over the examples of each bin."""
        with np.errstate(invalid="ignore"):
            return cls(examples, confidence / examples, right / examples)

    @property
    def ece(self) -> float:
        """Expected calibration error."""
        filled = self.examples > 0
        sums = [(values * self.examples)[filled] for values in (self.accuracy, self.confidence)]
        return expected_calibration_error(self.examples, *sums)


def reliability(confidence: np.ndarray, is_right: np.ndarray, bins: int = 15) -> Reliability:
    """Sort examples into equal bins of confidence (0, 1/bins], .., (1 - 1/bins, 1]."""
    index = np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(int) - 1, 0, bins - 1)
    examples = np.bincount(index, minlength=bins)
    return Reliability.of_sums(
        examples, np.bincount(index, is_right.astype(float), bins), np.bincount(index, confidence, bins)
    )


def expected_calibration_error(examples: np.ndarray, right: np.ndarray, confidence: np.ndarray) -> float:
    """Return the gap between accuracy and confidence, weighted by examples (arXiv:1706.04599).

    Args:
        examples: In each bin.
        right: How many of them are right.
        confidence: Their confidence, summed.
    """
    return float(np.abs(right - confidence).sum() / examples.sum())
