"""What the driver of a run tells trackers, and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from rayft.config import RunConfig
from rayft.errors import RayftError
from rayft.runs import RunFolder

OnProgress = Callable[[dict[str, Any]], None]
_STATE = "tracking.json"


class Tracker(Protocol):
    """Hears of a run."""

    name: str

    def begin(self, config: RunConfig, folder: RunFolder, known: dict[str, Any]) -> dict[str, Any]:
        """Hear that a run starts or goes on.

        Args:
            config: The run.
            folder: Its folder.
            known: What an earlier start returned; empty the first time.

        Returns:
            What the next start must know, as JSON can hold it.

        Raises:
            RayftError: The place cannot be reached, or refuses.
        """
        ...

    def metrics(self, lines: list[dict[str, Any]]) -> None:
        """Hear of new lines of metrics.jsonl, each once."""
        ...

    def end(self, status: str, result: dict[str, Any], folder: RunFolder) -> None:
        """Hear that the run finished, failed or was interrupted."""
        ...


class Tracking:
    """Tells trackers of a run as its folder grows; remembers in ``tracking.json`` what they know.

    A tracker that fails at the start stops the run before it trains. One that fails later is told again with the
    next epoch; what it misses in the end is a notice, for the training itself is not to be lost.

    Attributes:
        notices: What trackers missed.
    """

    def __init__(self, trackers: list[Tracker], folder: RunFolder) -> None:
        """Tell nobody anything yet."""
        self.notices: list[str] = []
        self._waiting, self._trackers, self._folder = trackers, list[Tracker](), folder
        self._known: dict[str, Any] = {}
        self._seen: Any = None

    def begin(self, config: RunConfig) -> None:
        """Tell of the start, or that the run goes on.

        Raises:
            RayftError: A tracker cannot be reached.
        """
        where = self._folder.storage / _STATE
        known = json.loads(where.read_bytes()) if self._waiting and where.exists() else {}
        for tracker in self._waiting:
            before = known.get(tracker.name, {})
            self._known[tracker.name] = {"logged_step": 0, **before, **tracker.begin(config, self._folder, before)}
            self._trackers.append(tracker)
        self._remember()

    def observe(self, on_progress: OnProgress) -> OnProgress:
        """Return ``on_progress`` that tells of new metrics besides."""

        def observed(state: dict[str, Any]) -> None:
            on_progress(state)
            # Lines are written at the end of an epoch, before the progress says that it ended.
            if self._trackers and state.get("done_epochs") != self._seen:
                self._seen = state.get("done_epochs")
                self._tell_metrics()

        return observed

    def end(self, status: str, result: dict[str, Any]) -> None:
        """Tell of what is left, and of the end."""
        if not self._trackers:
            return
        self.notices = []
        self._tell_metrics()
        for tracker in self._trackers:
            try:
                tracker.end(status, result, self._folder)
            except RayftError as error:
                self.notices.append(f"{tracker.name} was not told of the end: {error.args[0]}")

    def _tell_metrics(self) -> None:
        self.notices = []
        lines = self._folder.metrics()
        for tracker in self._trackers:
            known = self._known[tracker.name]
            new = [line for line in lines if line["step"] > known["logged_step"]]
            if not new:
                continue
            try:
                tracker.metrics(new)
            except RayftError as error:
                self.notices.append(f"{tracker.name} misses metrics: {error.args[0]}")
            else:
                known["logged_step"] = new[-1]["step"]
        self._remember()

    def _remember(self) -> None:
        if self._trackers:
            (self._folder.storage / _STATE).write_bytes(json.dumps(self._known).encode())


def open_tracking(config: RunConfig, folder: RunFolder) -> Tracking:
    """Return what the config asks for.

    Raises:
        ConfigError: A hook cannot be imported, or a package is missing.
    """
    trackers: list[Tracker] = []
    if config.track.mlflow.uri is not None:
        from rayft.tracking.mlflow_store import MlflowTracker

        trackers.append(MlflowTracker(config.track.mlflow))
    if config.track.hook is not None:
        from rayft.tracking.hook import HookTracker

        trackers.append(HookTracker(config.track.hook))
    return Tracking(trackers, folder)
