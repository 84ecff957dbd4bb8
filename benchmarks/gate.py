"""Where a measured process waits for its turn, and says how long its turn took."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

PR_SET_PDEATHSIG = 1  # From Linux' sys/prctl.h.


class Gate:
    """Lets a training loop run some epochs whenever the driver says so.

    The loop calls ``open`` once before its first epoch and ``epoch_done`` after each; both may block, and
    the process ends in one of them when the driver has enough.
    """

    def __init__(self, cores: list[int], cpu_clock: Callable[[], float] = time.process_time) -> None:
        """Pin this process; call it before TensorFlow or PyTorch is imported, which count the cores.

        Args:
            cores: The cores.
            cpu_clock: CPU seconds so far, of all that works for this side.
        """
        os.sched_setaffinity(0, cores)
        # A worker that waits for its partner would outlive a driver that was killed.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # What libraries print must not mix with the answers.
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._cpu_clock = cpu_clock
        self._left = 0
        self._epochs = 0
        self._started = 0.0
        self._started_cpu = 0.0

    def open(self, **details: Any) -> None:
        """Say what was built, then wait for the first turn."""
        self._answer(details)
        self._wait()

    def epoch_done(self) -> None:
        """Count an epoch; at the end of a turn, answer and wait for the next."""
        self._left -= 1
        if self._left:
            return
        seconds = time.perf_counter() - self._started
        cpu_s = self._cpu_clock() - self._started_cpu
        self._answer({"epochs": self._epochs, "seconds": seconds, "cpu_s": cpu_s, "peak_bytes": _peak_bytes()})
        self._wait()

    def _wait(self) -> None:
        command = sys.stdin.readline().strip()
        if not command:
            # Workers end one by one; an orderly end would wait for partners that are gone.
            os._exit(0)
        self._left = self._epochs = int(command)
        self._started, self._started_cpu = time.perf_counter(), self._cpu_clock()

    def _answer(self, values: dict[str, Any]) -> None:
        print(json.dumps(values), file=self._answers)


def _peak_bytes() -> int:
    """Return the largest resident size so far; Linux counts it in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
