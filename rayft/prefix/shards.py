"""Arrow files of activations: written as a stream, read through a memory map."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import math
import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rayft.errors import StorageError
from rayft.prefix.recipe import BATCH_ROWS, Recipe, shard_rows

# Arrow has no bfloat16; its bits are stored.
_STORED = {"float64": "float64", "float32": "float32", "float16": "float16", "bfloat16": "uint16"}
_TEMPORARY = re.compile(r"\.\d{5}-[0-9a-f]{32}\.tmp")
_NAME = re.compile(r"(\d{5})-([0-9a-f]{32})\.arrow")
_READ_BYTES = 1 << 20


class ShardWriter:
    """Streams the batches of one shard into a file that appears under its name whole or not at all.

    The name holds the shard's number and the first half of the SHA-256 of the content.
    """

    def __init__(self, folder: Path, recipe: Recipe, index: int) -> None:
        """Begin shard ``index`` in a local folder."""
        self._folder, self._index = folder, index
        self._temporary = folder / f".{index:05d}-{uuid.uuid4().hex}.tmp"
        stored = pa.from_numpy_dtype(np.dtype(_STORED[recipe.dtype]))
        self._type = pa.fixed_shape_tensor(stored, recipe.shape)
        self._size = math.prod(recipe.shape)
        self._schema = pa.schema([("activation", self._type), ("row", pa.int64())], {b"dtype": recipe.dtype.encode()})
        with _explained(folder):
            self._file = _DigestingFile(self._temporary)
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, mode="w"), self._schema)

    def add(self, rows: np.ndarray, activations: np.ndarray) -> None:
        """Append the activations [n, *shape] of the rows int64 [n]; n is BATCH_ROWS but in the last batch."""
        values = pa.array(np.ascontiguousarray(activations).reshape(-1))
        storage = pa.FixedSizeListArray.from_arrays(values, self._size)
        column = pa.ExtensionArray.from_storage(self._type, storage)
        with _explained(self._folder):
            self._writer.write_batch(pa.record_batch([column, pa.array(rows, pa.int64())], schema=self._schema))

    def finish(self) -> Path:
        """Flush the file to the disk and give it its name."""
        with _explained(self._folder):
            self._writer.close()
            self._file.sync_close()
            path = self._folder / f"{self._index:05d}-{self._file.digest()[:32]}.arrow"
            with contextlib.suppress(FileNotFoundError):
                # Missing where another builder has finished this cache meanwhile, and tidied it up.
                self._temporary.replace(path)
        return path

    def abandon(self) -> None:
        """Remove what was written."""
        # Closing writes what is left in a buffer, which a full disk refuses once more.
        with contextlib.suppress(OSError):
            self._file.close()
        self._temporary.unlink(missing_ok=True)


class Activations:
    """The activations of one boundary, mapped from the shards of its cache.

    Attributes:
        recipe: What they were computed from.
    """

    def __init__(self, recipe: Recipe, rows: np.ndarray, files: Sequence[Path]) -> None:
        """Map ``files``, the shards in order, which hold the ascending row ids int64 [n]."""
        self.recipe = recipe
        self._rows = rows
        self._shard_rows = shard_rows(recipe.num_rows)
        self._shards = [_map_shard(path, recipe) for path in files]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Return the activations [n, *shape] of row ids int64 [n], one gather for each shard concerned.

        bfloat16 comes as its bits, uint16.

        Raises:
            KeyError: A row was not computed.
        """
        position = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        if not np.array_equal(self._rows[position], rows):
            raise KeyError(f"rows {np.setdiff1d(rows, self._rows)[:5]} are not in the cache {self.recipe.key}")
        shard, within = np.divmod(position, self._shard_rows)
        batch, offset = np.divmod(within, BATCH_ROWS)
        concerned = np.unique(shard)
        if len(concerned) == 1:
            return self._shards[concerned[0]][batch, offset]
        taken = np.empty((len(rows), *self.recipe.shape), _STORED[self.recipe.dtype])
        for number in concerned:
            here = shard == number
            taken[here] = self._shards[number][batch[here], offset[here]]
        return taken


def parse_name(name: str) -> tuple[int, str] | None:
    """Return (number, digest) of a shard's file name, or None for other files."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), match[2]) if match else None


def is_temporary(name: str) -> bool:
    """Whether a file's name is that of a shard being written."""
    return _TEMPORARY.fullmatch(name) is not None


def digest_file(path: Path) -> str:
    """Return the digest that the name of an undamaged shard holds."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ_BYTES):
            total.update(part)
    return total.hexdigest()[:32]


def _map_shard(path: Path, recipe: Recipe) -> np.ndarray:
    """Return a view [batches, BATCH_ROWS, *shape] of the file; the last batch may be shorter than it says."""
    with pa.ipc.open_file(pa.memory_map(str(path))) as file:
        batches = [
            file.get_batch(index).column("activation").storage.flatten().to_numpy(zero_copy_only=True)
            for index in range(file.num_record_batches)
        ]
    first = batches[0]
    starts = [batch.__array_interface__["data"][0] for batch in batches]
    step = starts[1] - starts[0] if len(starts) > 1 else first.nbytes
    if any(after - before != step for before, after in itertools.pairwise(starts)):
        raise StorageError(f"{path} is no shard that rayft wrote.", "Remove it with `rayft cache prune --all`.")
    shape = (len(batches), BATCH_ROWS, *recipe.shape)
    inner = np.empty((1, *recipe.shape), first.dtype).strides
    # All full batches are laid out alike, activations first, so that one strided view spans the file.
    return np.lib.stride_tricks.as_strided(first, shape, (step, *inner), writeable=False)


class _DigestingFile:
    """A file that computes the SHA-256 of what is written to it; the part of Python's interface that Arrow calls."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self.closed = False

    def write(self, content: Any) -> int:
        self._digest.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        self.closed = True

    def sync_close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self.close()

    def digest(self) -> str:
        return self._digest.hexdigest()


@contextlib.contextmanager
def _explained(folder: Path) -> Any:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StorageError(
            f"Cannot write the prefix cache in {folder}: {reason}.",
            "Free some space, choose another storage, or train without it: --set prefix_cache=off.",
        ) from None
