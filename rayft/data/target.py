"""What the network shall answer: a class for each example, or a set of classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Targets:
    """Targets of n examples, dense only where they are asked for.

    Attributes:
        numbers: int32 [m], class numbers of the examples, one after another.
        offsets: int64 [n + 1], where those of each example begin; None where each has one.
        classes: Number of classes.
    """

    numbers: np.ndarray
    offsets: np.ndarray | None
    classes: int

    @classmethod
    def of(cls, labels: pa.ChunkedArray, classes: int) -> Targets:
        """Take a column ``label`` of a dataset: int32 [n], or list<int32> [n]."""
        if not pa.types.is_list(labels.type):
            return cls(labels.to_numpy(), None, classes)
        lengths = labels.combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        flat = labels.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return cls(flat, np.cumsum([0, *lengths], dtype=np.int64), classes)

    def __len__(self) -> int:
        """Return n."""
        return len(self.numbers) if self.offsets is None else len(self.offsets) - 1

    @property
    def is_several(self) -> bool:
        """Whether an example may have any number of classes."""
        return self.offsets is not None

    def column(self) -> pa.Array:
        """Return the targets as a column: int32 [n], or list<int32> [n]."""
        numbers = pa.array(self.numbers, pa.int32())
        return numbers if self.offsets is None else pa.ListArray.from_arrays(self.offsets.astype(np.int32), numbers)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """Return the targets of the examples at the positions int64 [b].

        Returns:
            int32 [b] class numbers; float32 [b, classes] of 0 and 1 where there may be several.
        """
        if self.offsets is None:
            return self.numbers[positions]
        dense = np.zeros((len(positions), self.classes), np.float32)
        for row, position in enumerate(positions.tolist()):
            dense[row, self.numbers[self.offsets[position] : self.offsets[position + 1]]] = 1
        return dense

    def counts(self) -> np.ndarray:
        """Return the number of examples of each class, int64 [classes]."""
        return np.bincount(self.numbers, minlength=self.classes)

    def owners(self) -> np.ndarray:
        """Return the example that each of ``numbers`` belongs to, int64 [m]."""
        if self.offsets is None:
            return np.arange(len(self.numbers))
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))
