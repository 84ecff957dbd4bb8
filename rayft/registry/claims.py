"""Agreement of many writers on one value, on a store that can only put, list and read.

Object stores as pyarrow offers them have no "create unless it exists". This is Disk Paxos (Gafni and Lamport
2003, Distributed Computing 16(1)) with the store as its one disk, for one value:

1. Write the claim ``<ballot>.promise``. List. Where a promise of a higher ballot is there, give up and try
   again with a ballot above it. Else take the value of the highest ``.accept`` there, or one's own.
2. Write the claim ``<ballot>.accept`` with that value. List. Where a promise of a higher ballot is there, give
   up and try again. Else the value is decided; write it down.

A ballot is (counter, random id): no two attempts share one, and no claim is ever written twice.

Why two writers never decide differently. Let ballot b decide v, and b' > b be any ballot that reaches
step 2. When b listed in step 2, the promise of b' was not there; the store lists what was written before (S3,
Google and Azure do), so b' wrote its promise, and listed, after that. Its list showed ``b.accept``. By induction
over the ballots between, every accept from b up to b' carries v, so b' took v.

Why crashes do no harm. A writer may stop at any point. What it left is a promise (which at most makes others
choose a higher ballot) or an accept (whose value the next writer may finish for it). An accept that is
there in part, on stores whose puts are not atomic, counts as not written: its writer has not listed yet, and will
then find the reader's higher promise.

Why claims may be removed once the value is written down. Each list is followed by a look at the decision. A list that
lacks removed claims was taken after the decision was written, so that look finds it.

What is given up is a bound on the time: two writers can make each other try again. Random pauses of growing length
make that as unlikely as one wants; safety does not depend on them, nor on clocks.
"""

from __future__ import annotations

import hashlib
import random
import time
import uuid
from collections.abc import Callable
from typing import Protocol

from rayft.errors import StorageError

_DIGITS = 8
_FIRST_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 2.0
_MAX_ATTEMPTS = 200


class Place(Protocol):
    """Where claims and the decision lie; each call is one request."""

    def put(self, name: str, content: bytes) -> None:
        """Write a claim."""

    def list(self) -> list[str]:
        """Return the names of all claims."""

    def read(self, name: str) -> bytes:
        """Return a claim's content; empty where it is gone."""

    def decision(self) -> bytes | None:
        """Return the decided value, where it is written down."""

    def decide(self, value: bytes) -> None:
        """Write the decided value down; every caller brings the same."""


def agree(place: Place, value: bytes, *, pause: Callable[[float], None] = time.sleep) -> bytes:
    """Propose a value; return the one that is decided, for every proposer the same.

    Args:
        place: Claims of this one decision.
        value: Not empty, and unlike the value of every other proposer.
        pause: Waits some seconds; for tests.

    Raises:
        StorageError: Others got in the way for minutes.
    """
    counter, wait = 1, _FIRST_PAUSE_S
    for _ in range(_MAX_ATTEMPTS):
        ballot = f"{counter:0{_DIGITS}d}-{uuid.uuid4().hex}"
        decided = _attempt(place, ballot, value)
        if decided is not None:
            return decided
        pause(random.uniform(0, wait))
        wait = min(2 * wait, _LONGEST_PAUSE_S)
        if (decided := place.decision()) is not None:
            return decided
        counter = max([counter, *(int(name[:_DIGITS]) for name in place.list())]) + 1
    raise StorageError(
        f"{_MAX_ATTEMPTS} attempts to write were each overtaken by another writer.", "Try again with fewer writers."
    )


def _attempt(place: Place, ballot: str, own: bytes) -> bytes | None:
    """Try one ballot; return the decision, or None where a higher ballot is about."""
    place.put(f"{ballot}.promise", b"")
    claims = place.list()
    if (decided := place.decision()) is not None:
        return decided
    if _overtaken(claims, ballot):
        return None
    value = _latest_accepted(place, claims) or own
    place.put(f"{ballot}.accept", hashlib.sha256(value).digest() + value)
    claims = place.list()
    if (decided := place.decision()) is not None:
        return decided
    if _overtaken(claims, ballot):
        return None
    place.decide(value)
    return value


def _overtaken(claims: list[str], ballot: str) -> bool:
    return any(name.partition(".")[0] > ballot for name in claims)


def _latest_accepted(place: Place, claims: list[str]) -> bytes | None:
    for name in sorted((name for name in claims if name.endswith(".accept")), reverse=True):
        content = place.read(name)
        digest, value = content[:32], content[32:]
        if value and hashlib.sha256(value).digest() == digest:
            return value
    return None
