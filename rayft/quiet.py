"""Silence for what native libraries print while they start."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def native_start_up() -> Iterator[None]:
    """Drop what is written to file descriptor 2 inside the block; Python's exceptions pass.

    TensorFlow and CUDA report missing drivers there before any setting of theirs is read. What they would say
    later is kept to errors, where the variable TF_CPP_MIN_LOG_LEVEL does not ask for more.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
