"""Hot swap: versions of the registry that take each other's place while requests go on."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rayft.errors import PackageError, RayftError
from rayft.registry.state import ModelState, Version
from rayft.serve.contract import ServedModel
from rayft.serve.engine.engine import BatchingEngine
from rayft.serve.engine.open import open_source
from rayft.serve.engine.source import Source

_log = logging.getLogger(__name__)
# A version that failed is tried again after so long, unless the alias moves before.
_RETRY_S = 600.0


class SwapObserver(Protocol):
    """Hears of swaps."""

    def swapped(self, before: ServedModel | None, after: ServedModel) -> None:
        """Hear that a version serves now."""

    def swap_failed(self, model: str, problem: str) -> None:
        """Hear that a version could not take its place, and why."""


@dataclass
class _Failure:
    """A version that could not be installed, and when to try it again."""

    number: int
    again: float


@dataclass
class Watch:
    """Keeps an engine at the versions that the registry's aliases lead to.

    Attributes:
        engine: Serves.
        sources: Its models.
        observer: Hears of swaps.
        poll_s: Time between two looks.
    """

    engine: BatchingEngine
    sources: Sequence[Source]
    observer: SwapObserver
    poll_s: float = 2.0
    _failures: dict[str, _Failure] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _has_left: bool = False

    def load_all(self) -> None:
        """Install every model; a registered one that cannot be falls back to what its alias led to before.

        Raises:
            RayftError: A model cannot be installed, and there is no version to fall back to.
        """
        for source in self.sources:
            if source.moves:
                self._load_or_fall_back(source)
            else:
                self._install(source, None)

    def start(self) -> None:
        """Look at the registry from now on, in a thread."""
        if any(source.registry is not None for source in self.sources):
            self._thread = threading.Thread(target=self._run, name="rayft-watch", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def look(self) -> None:
        """Compare every model with the registry once, and install what has moved."""
        if self._has_left:
            # Not at the swap: requests that came before it still hold the version.
            _free_what_has_left()
            self._has_left = False
        for source in self.sources:
            if source.registry is None:
                continue
            try:
                self._follow(source, source.state())
            except RayftError as error:
                # The store is away for the moment; what is served stays.
                _log.warning("Cannot look up %s: %s", source.name, error.args[0])

    def _follow(self, source: Source, state: ModelState) -> None:
        served = self.engine.find(source.name)
        aliases = tuple(state.aliases_of(int(served.version)))
        if aliases != served.aliases:
            self.engine.describe(source.name, aliases=aliases)
        wanted = state.find(source.selector) if source.moves else None
        if wanted is None or str(wanted.number) == served.version:
            self._failures.pop(source.name, None)
            if served.problem is not None:
                self.engine.describe(source.name, problem=None)
            return
        failed = self._failures.get(source.name)
        if failed is not None and failed.number == wanted.number and time.monotonic() < failed.again:
            return
        try:
            self._install(source, wanted)
        # Whatever a version does, the one that serves goes on; the next look is for other versions.
        except Exception as error:
            self._note_failure(source, wanted, error)

    def _load_or_fall_back(self, source: Source) -> None:
        state = source.state()
        wanted = state.find(source.selector)
        try:
            self._install(source, wanted)
            return
        except PackageError as error:
            first = error
        for earlier in source.earlier(state):
            if earlier.number == wanted.number:
                continue
            try:
                self._install(source, earlier)
            except PackageError as error:
                _log.error("%s cannot be served either: %s", earlier, error.args[0])
                continue
            self._note_failure(source, wanted, first)
            return
        raise first

    def _install(self, source: Source, version: Version | None) -> None:
        before = next((model for model in self.engine.models() if model.name == source.name), None)
        started = time.monotonic()
        served, predictor = open_source(source, version)
        self.engine.install(served, predictor)
        self._failures.pop(source.name, None)
        self._has_left |= before is not None
        self.observer.swapped(before, served)
        _log.info("%s serves version %s after %.1f s", served.name, served.version, time.monotonic() - started)

    def _note_failure(self, source: Source, version: Version, error: Exception) -> None:
        problem = error.args[0] if isinstance(error, RayftError) else f"{type(error).__name__}: {error}"
        served = self.engine.find(source.name)
        said = f"version {served.version} is served, for {version} cannot be: {problem}"
        self._failures[source.name] = _Failure(version.number, time.monotonic() + _RETRY_S)
        self.engine.describe(source.name, problem=said)
        self.observer.swap_failed(source.name, said)
        _log.error("%s: %s", source.name, said)

    def _run(self) -> None:
        while not self._stop.wait(self.poll_s):
            try:
                self.look()
            # A fault of ours must not end the watch for good.
            except Exception:
                _log.exception("A look at the registry failed")


def _free_what_has_left() -> None:
    """Collect the version that has left; Ray Serve froze what was there when the replica had started, this one too."""
    frozen = gc.get_freeze_count() > 0
    gc.unfreeze()
    gc.collect()
    if frozen:
        gc.freeze()
