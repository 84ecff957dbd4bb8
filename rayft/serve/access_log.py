"""The access log: a line of JSON for each request, without payload, query or key."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

LOGGER = "rayft.access"

_logger = logging.getLogger(LOGGER)
# A process is one endpoint, so its counts are those of the process.
_counts: list[Callable[[str, int], None]] = []
_SANE_ID = re.compile(r"[A-Za-z0-9._\-]{1,128}")


def sane_id(given: str | None) -> str | None:
    """Return a client's request id if it may stand in a log and a header."""
    return given if given and _SANE_ID.fullmatch(given) else None


def count_responses(count: Callable[[str, int], None]) -> None:
    """Let every later request of this process be told to a function, as protocol and status, logged or not."""
    _counts.append(count)


def log_request(
    protocol: str, request_id: str, method: str, status: int, facts: Mapping[str, Any], begun: float, size: int = 0
) -> None:
    """Log one request.

    Args:
        protocol: http or grpc.
        request_id: As told to the client.
        method: Of HTTP, or the call's name.
        status: Of HTTP, also for gRPC.
        facts: route, model, version, bytes, pictures, timing_ms, key, as far as known.
        begun: ``time.perf_counter()`` at its start.
        size: Bytes of the answer.
    """
    for count in _counts:
        count(protocol, status)
    if not _logger.isEnabledFor(logging.INFO):
        return
    line = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "id": request_id,
        "protocol": protocol,
        "method": method,
        "route": facts.get("route"),
        "model": facts.get("model"),
        "version": facts.get("version"),
        "status": status,
        "bytes_in": facts.get("bytes", 0),
        "bytes_out": size,
        "pictures": facts.get("pictures", 0),
        **{f"{part}_ms": round(value, 3) for part, value in facts.get("timing_ms", {}).items()},
        "total_ms": round((time.perf_counter() - begun) * 1e3, 3),
        "key": facts.get("key"),
    }
    _logger.info("%s", json.dumps(line))
