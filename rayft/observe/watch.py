"""What the driver of a run says of it, from the progress that it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rayft.observe.sink import Sink

OnProgress = Callable[[dict[str, Any]], None]


def watched(sink: Sink, on_progress: OnProgress) -> OnProgress:
    """Return ``on_progress`` that tells a sink of new phases, notices and restarts besides."""
    phase = ""
    restarts = 0
    told: set[str] = set()

    def tell(state: dict[str, Any]) -> None:
        nonlocal phase, restarts
        on_progress(state)
        if state["phase"] != phase:
            phase = state["phase"]
            sink.event("phase", phase=phase)
        for notice in state.get("notices", []):
            if notice not in told:
                told.add(notice)
                sink.event("notice", text=notice)
        if "restarts" in state:
            if state["restarts"] > restarts:
                sink.event("restart", level="warning", restarts=state["restarts"])
            restarts = state["restarts"]
            sink.record("rayft_train_restarts", restarts)

    return tell
