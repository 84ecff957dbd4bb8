"""How the C library hands out memory in the processes of a run: what a step frees is kept for the next step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

# By itself glibc gives a thread an arena of its own where it can; with many threads, one alone would have them wait.
_CPUS_PER_ARENA = 8


def allocator_environment(cpus: int) -> dict[str, str]:
    """Return the variables of glibc under which a process keeps what it has freed; other C libraries ignore them.

    Every step frees tensors of megabytes and takes them again. By itself glibc returns such blocks to the system, which
    must fill their pages with zeros when they are taken the next time, and keeps a heap for each thread. Measured with
    two slots of a sweep behind a cached prefix: a third of the CPU time went there.

    Args:
        cpus: Of the machine; the more there are, the more heaps its threads share.
    """
    return {
        "MALLOC_ARENA_MAX": str(max(1, cpus // _CPUS_PER_ARENA)),
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    }


@contextlib.contextmanager
def inherited_environment(values: dict[str, str]) -> Iterator[None]:
    """Give variables to the processes that start within; one that is set already keeps its value."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
