"""Waiting for a store that answers that it is busy."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 8.0
# As the AWS SDK puts it. A store that is not there at all is another matter: its address is wrong more often than not.
_BUSY = re.compile(r"AWS Error (SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|THROTTLING)|HTTP status (429|50[0234])")


def is_busy(error: Exception) -> bool:
    """Whether a store answered, and said that it may do later what it does not now."""
    return _BUSY.search(str(error)) is not None


def persist(attempt: Callable[[], T], *, patience_s: float | None = None) -> T:
    """Return what ``attempt`` returns, which is called again while the store says that it is busy.

    Args:
        attempt: Does the same however often it is called.
        patience_s: After so long the store's error is the caller's; ``PATIENCE_S`` if not given.
    """
    end, pause_s = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s), 0.5
    while True:
        try:
            return attempt()
        except OSError as error:
            # The SDK has tried for some seconds by itself.
            if not is_busy(error) or time.monotonic() + pause_s > end:
                raise
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
