"""What the tests of the registry run in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path

from rayft.registry.registry import Registry

# Children are forked from a process that has imported this module and started no thread.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["registering"])

_WRITES = {"os.link", "os.mkdir", "os.remove", "os.rename"}


def register_many(place: str, package: str, start: object, count: int, numbers: object) -> None:
    """Register a package ``count`` times, once every process stands at the start."""
    registry = Registry.open(place)
    start.wait(60)
    for _ in range(count):
        numbers.put(registry.register(Path(package), "zoo").number)


def act(place: str, action: str, package: str) -> None:
    """Do one thing to the model zoo."""
    registry = Registry.open(place)
    if action == "register":
        registry.register(Path(package), "zoo")
    elif action == "promote":
        registry.promote(registry.find("zoo@1"), "champion")
    elif action == "rollback":
        registry.rollback("zoo")
    else:
        registry.delete(registry.find("zoo@1"))


def act_and_die(place: str, action: str, package: str, survived: int) -> None:
    """Do one thing; the process is killed at its local write number ``survived``."""
    seen = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal seen
        flags = arguments[2] if event == "open" else 0
        if event in _WRITES or (isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)):
            if seen == survived:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(watch)
    act(place, action, package)
