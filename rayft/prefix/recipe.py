"""What cached activations are computed from, hence the name of their cache."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# Part of every key: older caches are then not found, and age out.
FORMAT = 2
# Examples that one call of the prefix computes, and that one Arrow record batch holds.
BATCH_ROWS = 32
_ITEM_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Recipe:
    """All that enters the activations of one boundary; two equal recipes give equal activations.

    Neither the split of an example nor anything behind the boundary is a part of it.

    Attributes:
        prefix: Digest of the layers in front of the boundary and of their weights.
        cut: Name of the layer whose output is the boundary.
        preprocessing: How encoded bytes become the network's input.
        shape: Of one example's activation.
        dtype: Of the stored numbers: float64, float32, float16 or bfloat16.
        dataset: Fingerprint of the dataset.
        rows: Digest of the row ids, ascending.
        num_rows: Their count.
        view: Augmentation, seed and number of an augmented view; None for the pictures as they are.
        precision: ``train.precision``, in which the prefix computes.
        engine: Library and version that computes it.
        format: Version of the files.
    """

    prefix: str
    cut: str
    preprocessing: dict[str, Any]
    shape: tuple[int, ...]
    dtype: str
    dataset: str
    rows: str
    num_rows: int
    view: dict[str, Any] | None
    precision: str
    engine: str
    format: int = FORMAT

    @property
    def key(self) -> str:
        """Name of the cache's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    @property
    def row_bytes(self) -> int:
        """Bytes of one example."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]

    @property
    def num_bytes(self) -> int:
        """Bytes of all examples, without the few that the files add."""
        return self.row_bytes * self.num_rows

    @property
    def num_shards(self) -> int:
        """Files that the activations are divided into."""
        return -(-self.num_rows // shard_rows(self.num_rows))


def shard_rows(num_rows: int) -> int:
    """Return the examples of one shard, a function of their number alone: any builder divides them alike.

    About 8 shards of a small dataset, so that several workers can build; at most 128, since every process
    holds each of them open.
    """
    rows = max(num_rows / 128, min(num_rows / 8, 512))
    return max(1, math.ceil(rows / BATCH_ROWS)) * BATCH_ROWS


def digest_rows(rows: np.ndarray) -> str:
    """Return the digest of row ids int64 [n]."""
    return hashlib.sha256(np.ascontiguousarray(rows, np.int64).tobytes()).hexdigest()
