"""Temperature scaling: probabilities that say how often they are right.

Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Beyond these, probabilities are all the same, or all 0 and 1.
LOWEST, HIGHEST = 0.01, 100.0
_ROWS = 4096
_STEPS = 100
_TOLERANCE = 1e-10


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the temperature T that minimises the mean log-loss of softmax(logits / T).

    Where an example may have several labels, that of sigmoid(logits / T), over all labels of all examples. The
    log-loss is convex in 1 / T: Newton's steps find it, kept within a shrinking bracket.

    Args:
        logits: float [n, classes]; may be mapped from a file, is read in parts.
        labels: int [n]; bool [n, classes] for several.

    Returns:
        Between 0.01 and 100; None where every label has the strictly largest logit, or several labels are all
        on their side of 0, for then a lower temperature is always better, and none is best.
    """
    several = labels.ndim == 2
    are_right, slope_at = (_all_sides_right, _slope_of_sets) if several else (_all_right, _slope)
    if not len(labels) or all(are_right(*part) for part in _parts(logits, labels)):
        return None
    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope_at(logits, labels, low)[0] >= 0:
        return HIGHEST
    if slope_at(logits, labels, high)[0] <= 0:
        return LOWEST
    inverse = 1.0
    for _ in range(_STEPS):
        slope, curvature = slope_at(logits, labels, inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        step = inverse - slope / curvature if curvature > 0 else float("nan")
        # Outside of the bracket, or where all is 0 and 1, its geometric middle goes on.
        following = step if low <= step <= high else float(np.sqrt(low * high))
        if abs(following - inverse) <= _TOLERANCE * inverse:
            break
        inverse = following
    return float(1 / following)


def as_probabilities(logits: np.ndarray, temperature: float = 1.0, *, multi_label: bool = False) -> np.ndarray:
    """Return what a package answers, float32 [n, classes]: softmax(logits / T), or sigmoid(logits / T)."""
    if multi_label:
        return sigmoid(logits.astype(np.float64) / temperature).astype(np.float32)
    return np.exp(log_probabilities(logits, temperature)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x)) of float64, which never overflows."""
    return np.exp(log_sigmoid(logits))


def log_sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return log(1 / (1 + exp(-x))) of float64, exact at both ends."""
    return np.minimum(logits, 0) - np.log1p(np.exp(-np.abs(logits)))


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return log softmax(logits / T) in float64, [n, classes]."""
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))


def _parts(logits: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(labels), _ROWS):
        yield logits[start : start + _ROWS].astype(np.float64), labels[start : start + _ROWS]


def _all_right(logits: np.ndarray, labels: np.ndarray) -> bool:
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    return bool((logits[rows, labels] > others.max(axis=1)).all())


def _slope(logits: np.ndarray, labels: np.ndarray, inverse: float) -> tuple[float, float]:
    """First and second derivative of the summed log-loss by 1 / T: E_p[z] - z_label, and Var_p[z]."""
    first = second = 0.0
    for z, label in _parts(logits, labels):
        probability = np.exp(log_probabilities(z * inverse))
        mean = (probability * z).sum(axis=1)
        first += float((mean - z[np.arange(len(label)), label]).sum())
        second += float((probability * (z - mean[:, None]) ** 2).sum())
    return first, second


def _all_sides_right(logits: np.ndarray, labels: np.ndarray) -> bool:
    return bool(np.where(labels, logits > 0, logits < 0).all())


def _slope_of_sets(logits: np.ndarray, labels: np.ndarray, inverse: float) -> tuple[float, float]:
    """First and second derivative of the summed log-loss of several labels by 1 / T."""
    first = second = 0.0
    for z, present in _parts(logits, labels):
        probability = sigmoid(z * inverse)
        first += float(((probability - present) * z).sum())
        second += float((probability * (1 - probability) * z**2).sum())
    return first, second
