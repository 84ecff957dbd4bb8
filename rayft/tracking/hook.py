"""A function of the user's own that hears of a run."""

from __future__ import annotations

from typing import Any

from rayft.config import RunConfig
from rayft.errors import TrackingError
from rayft.imports import load_object
from rayft.runs import RunFolder


class HookTracker:
    """Calls ``function(event)`` with plain dicts: ``event`` is begin, metrics or end."""

    name = "track.hook"

    def __init__(self, path: str) -> None:
        """Import the function.

        Raises:
            ConfigError: It cannot be imported.
        """
        self._path = path
        self._function = load_object(path, "track.hook")

    def begin(self, config: RunConfig, folder: RunFolder, known: dict[str, Any]) -> dict[str, Any]:
        """Send run, folder, config, resumed."""
        self._call(
            {
                "event": "begin",
                "run": config.name,
                "folder": folder.storage.uri,
                "config": config.model_dump(mode="json"),
                "resumed": bool(known),
            }
        )
        return {"told": True}

    def metrics(self, lines: list[dict[str, Any]]) -> None:
        """Send the lines."""
        self._call({"event": "metrics", "lines": lines})

    def end(self, status: str, result: dict[str, Any], folder: RunFolder) -> None:
        """Send status, result, folder."""
        self._call({"event": "end", "status": status, "result": result, "folder": folder.storage.uri})

    def _call(self, event: dict[str, Any]) -> None:
        try:
            self._function(event)
        # The user's own code may raise anything.
        except Exception as error:
            raise TrackingError(
                f"track.hook {self._path!r} raised {type(error).__name__}: {error} at the event {event['event']!r}.",
                "Mend the function, or remove track.hook.",
            ) from error
