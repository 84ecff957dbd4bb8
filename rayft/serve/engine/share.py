"""How the CPUs of a replica are shared by passes of its networks."""

from __future__ import annotations

# Each pass holds the activations of a batch.
_MAX_PASSES = 4


def passes_at_once(cpus: int, *, on_gpu: bool, asked: int | None = None) -> int:
    """Return how many passes of a trunk run at once.

    A small batch does not fill the cores of a CPU, several of them do. A GPU runs one after the other in any case.

    Args:
        cpus: Of the replica, whole ones.
        on_gpu: Whether it has a GPU.
        asked: What the settings say, if they do.
    """
    return asked or (1 if on_gpu else min(cpus, _MAX_PASSES))


def threads_of_a_pass(cpus: int, passes: int) -> int:
    """Return how many threads an operation of a pass may use.

    With as many as there are CPUs, each pass would wait at every operation for threads that another one keeps busy.
    """
    return max(1, round(cpus / passes))
