"""Digests of weights."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np


def digest(variables: list[Any]) -> str:
    """Return the sha256 over the values of variables, in order."""
    total = hashlib.sha256()
    for variable in variables:
        total.update(np.ascontiguousarray(np.asarray(variable)).tobytes())
    return total.hexdigest()
