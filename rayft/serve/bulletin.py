"""What replicas tell whoever started them, through the key-value store of the Ray cluster."""

from __future__ import annotations

import itertools
import json
import uuid
from typing import Any

from ray.experimental import internal_kv

from rayft import errors
from rayft.errors import RayftError, RunFailed

_SPACE = b"rayft-serve"


class Bulletin:
    """One endpoint's board; any process of the cluster may write, one reads.

    Args:
        topic: Names the endpoint on this cluster.
    """

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._writer, self._count = uuid.uuid4().hex[:12], itertools.count()

    def say(self, event: str, **facts: Any) -> None:
        """Write one event, after those that this object wrote before."""
        key = f"{self._topic}/{self._writer}/{next(self._count):09d}"
        content = json.dumps({"event": event, "replica": self._writer, **facts})
        internal_kv._internal_kv_put(key, content, namespace=_SPACE)

    def say_error(self, error: Exception) -> None:
        """Write an error that ends the writer."""
        self.say("failed", kind=type(error).__name__, args=[str(part) for part in error.args])

    def read(self) -> list[dict[str, Any]]:
        """Return the events since the last call, each writer's in its order, and take them off the board."""
        found = []
        for key in sorted(internal_kv._internal_kv_list(f"{self._topic}/", namespace=_SPACE)):
            content = internal_kv._internal_kv_get(key, namespace=_SPACE)
            internal_kv._internal_kv_del(key, namespace=_SPACE)
            if content is not None:
                found.append(json.loads(content))
        return found


def error_of(event: dict[str, Any]) -> RayftError:
    """Return the error that a replica wrote."""
    kind, arguments = getattr(errors, event["kind"], None), event["args"]
    if isinstance(kind, type) and issubclass(kind, RayftError) and len(arguments) == 2:
        return kind(*arguments)
    problem = f"A replica failed: {event['kind']}: {' '.join(arguments)}"
    return RunFailed(problem, "See its log in the folder of Ray's session, /tmp/ray/session_latest/logs.")
