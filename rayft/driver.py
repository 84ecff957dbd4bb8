"""Which driver writes the folder of a run, so that two never do at once."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from rayft.errors import StorageError
from rayft.storage import Storage

CLAIM_FILE = "driver.json"
RENEW_S = 10.0
# A driver on another machine counts as gone after so long without a sign of life.
SILENT_S = 60.0


def require_free(folder: Storage) -> None:
    """Refuse a folder that a living driver writes.

    A driver on this machine lives while its process does; one elsewhere while it renews its claim.

    Raises:
        StorageError: Names the driver.
    """
    claim = _read(folder)
    if claim is None or not _lives(claim):
        return
    who = f"process {claim['pid']} on {claim['host']}"
    raise StorageError(
        f"{folder.uri} is being written by {who}, last heard of {max(0.0, time.time() - claim['renewed']):.0f} s ago.",
        f"Wait for it or stop it; if it is gone, try again {SILENT_S:.0f} s after its last sign of life. "
        "Or give this run another name.",
    )


@contextlib.contextmanager
def claimed(folder: Storage) -> Iterator[None]:
    """Hold the claim to a folder, which exists, for the length of a block; renews it meanwhile.

    Files that a killed process has written in part are removed.

    Two drivers that start within the same moment both write; the one whose claim is there afterwards goes on.

    Raises:
        StorageError: Another driver holds it.
    """
    require_free(folder)
    claim = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}
    _write(folder, claim)
    found = _read(folder)
    if found is None or found["id"] != claim["id"]:
        require_free(folder)
    # No other driver writes here now, and this one has not begun.
    folder.remove_partial_files()
    done = threading.Event()

    def renew() -> None:
        while not done.wait(RENEW_S):
            # The storage may be away for a moment; the run itself finds out if it stays so.
            with contextlib.suppress(StorageError):
                _write(folder, claim)

    thread = threading.Thread(target=renew, name="claim", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with contextlib.suppress(StorageError):
            found = _read(folder)
            if found is not None and found["id"] == claim["id"]:
                (folder / CLAIM_FILE).delete()


def _write(folder: Storage, claim: dict) -> None:
    (folder / CLAIM_FILE).write_bytes(json.dumps({**claim, "renewed": time.time()}).encode())


def _read(folder: Storage) -> dict | None:
    """Return the claim; None where there is none, or one that cannot be understood."""
    where = folder / CLAIM_FILE
    if not where.exists():
        return None
    try:
        claim = json.loads(where.read_bytes())
        return {
            "id": str(claim["id"]),
            "host": str(claim["host"]),
            "pid": int(claim["pid"]),
            "started": str(claim["started"]),
            "renewed": float(claim["renewed"]),
        }
    except (ValueError, TypeError, KeyError):
        return None


def _lives(claim: dict) -> bool:
    if claim["host"] == socket.gethostname():
        # The number alone may belong to another process by now.
        return claim["started"] == _started(claim["pid"])
    return time.time() - claim["renewed"] < SILENT_S


def _started(pid: int) -> str:
    """Return when a process started, in clock ticks since the machine did, with the id of that boot."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "gone"
    # The dead that nobody waited for are no drivers any more.
    return "gone" if fields[0] == "Z" else f"{boot} {fields[19]}"
