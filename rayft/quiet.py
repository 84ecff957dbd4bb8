"""What native libraries print while they start: dropped, or kept to be read."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def native_start_up() -> Iterator[None]:
    """Drop what is written to file descriptor 2 inside the block; Python's exceptions pass.

    TensorFlow and CUDA report missing drivers there before any setting of theirs is read. What they would say
    later is kept to errors, where the variable TF_CPP_MIN_LOG_LEVEL does not ask for more.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with open(os.devnull, "wb") as nowhere, _written_to(nowhere):
        yield


@contextlib.contextmanager
def native_words() -> Iterator[list[str]]:
    """Keep what is written to file descriptor 2 inside the block; after it, the context's list holds it."""
    words: list[str] = []
    with tempfile.TemporaryFile() as file:
        try:
            with _written_to(file):
                yield words
        finally:
            file.seek(0)
            words.append(file.read().decode(errors="replace"))


@contextlib.contextmanager
def _written_to(file: IO[bytes]) -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
