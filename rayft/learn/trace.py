"""A trace of some steps, as TensorBoard's profile page reads it."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf

from rayft.errors import ConfigError, StorageError
from rayft.learn.place import Place
from rayft.storage import Storage

# The name by which the page finds steps.
STEP_EVENT = "train"


class NoTrace:
    """Traces nothing."""

    def limit(self, step: int) -> int:
        """Return how many steps the next call may take."""
        return sys.maxsize

    def around(self, step: int) -> contextlib.AbstractContextManager[None]:
        """Return a context for the call after ``step`` steps."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Write what there is."""


NO_TRACE = NoTrace()


class StepTrace(NoTrace):
    """Traces this process from after step ``start`` to after step ``stop``, one step a call.

    Every rank divides its calls in the same way, which does not change the numbers.
    """

    def __init__(self, start: int, stop: int, folder: Storage, told: Callable[[str], None]) -> None:
        """Wait for the first of the steps.

        Args:
            start: Steps done before, in the whole run.
            stop: Steps done after.
            folder: A run of TensorBoard; receives ``plugins/profile/<time>/<host>.xplane.pb``.
            told: Called with the folder's URI when the trace is there.
        """
        self._start, self._stop, self._folder, self._told = start, stop, folder, told
        self._local: Path | None = None

    def limit(self, step: int) -> int:
        """Return how many steps the next call may take: one of those to be traced, all of those before."""
        if step < self._start:
            return self._start - step
        return 1 if step < self._stop else sys.maxsize

    @contextlib.contextmanager
    def around(self, step: int) -> Iterator[None]:
        """Trace the call after ``step`` steps, if it is one of those."""
        if not self._start <= step < self._stop:
            yield
            return
        if self._local is None:
            self._begin()
        # What a step is, and its number, are known to the page by these arguments.
        with tf.profiler.experimental.Trace(STEP_EVENT, step_num=step + 1, _r=1):
            yield
        if step + 1 == self._stop:
            self.close()

    def close(self) -> None:
        """Write the trace so far, where one has begun."""
        local, self._local = self._local, None
        if local is None:
            return
        try:
            tf.profiler.experimental.stop()
        except tf.errors.OpError as error:
            raise StorageError(
                f"Cannot write the profile in {self._folder.uri}: {str(error.message).splitlines()[0]}",
                "Free some space, or leave out train.profile.",
            ) from None
        if not self._folder.is_local:
            self._folder.upload_folder(local)
            shutil.rmtree(local)
        self._told(self._folder.uri)

    def _begin(self) -> None:
        local = Path(self._folder.root) if self._folder.is_local else Path(tempfile.mkdtemp(prefix="rayft-profile-"))
        tf.profiler.experimental.start(str(local))
        self._local = local


def open_trace(window: tuple[int, int] | None, tensorboard: Storage, place: Place) -> NoTrace:
    """Return what traces the steps of ``train.profile`` in this process.

    Args:
        window: Of ``train.profile``.
        tensorboard: Gets a run of TensorBoard for each rank.
        place: This process among the workers.
    """
    if window is None:
        return NO_TRACE
    start, stop = window

    def told(uri: str) -> None:
        place.sink.event("profile", folder=uri, start=start, stop=stop)

    return StepTrace(start, stop, tensorboard / f"rank{place.rank}", told)


def check_window(window: tuple[int, int] | None, total_steps: int) -> None:
    """Refuse to trace steps that a run does not have.

    Raises:
        ConfigError: ``train.profile`` ends after the last step.
    """
    if window is not None and window[1] > total_steps:
        raise ConfigError(
            f"train.profile is [{window[0]}, {window[1]}]; the run has {total_steps} steps.",
            f"Let it end at {total_steps} or before.",
        )
