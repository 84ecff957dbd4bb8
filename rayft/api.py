"""The functions of `rayft` for scripts and notebooks; each does what the command of its name does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from rayft.config import RunConfig, resolve_config
from rayft.quiet import native_start_up
from rayft.results import Evaluation, RunResult

if TYPE_CHECKING:
    from rayft.distributed.verify import VerifyReport
    from rayft.serve.predictor import Predictor

ConfigLike: TypeAlias = RunConfig | Mapping[str, Any] | str | PathLike[str]
OnProgress: TypeAlias = Callable[[dict[str, Any]], None]


def train(
    config: ConfigLike,
    *,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    on_progress: OnProgress | None = None,
) -> RunResult:
    """Fine-tune; an unfinished run of the same name goes on where it stopped.

    Args:
        config: A ``RunConfig``, a mapping of sections, or the path of a YAML file.
        overrides: ``section.field=value``, as of ``--set``.
        fresh: Delete an earlier run of this name first.
        on_progress: Receives the latest progress several times a second; one line on stderr if not given.

    Raises:
        RayftError: See ``rayft.distributed.run.train``.
    """
    settings = resolve_config(config, overrides)
    with native_start_up():
        from rayft.distributed.run import train as run
    with _progress(on_progress) as tell:
        result = run(settings, fresh=fresh, on_progress=tell)
    return RunResult(result)


def verify(config: ConfigLike, *, overrides: Sequence[str] = (), on_progress: OnProgress | None = None) -> VerifyReport:
    """Prove that the number of workers does not change what a config trains.

    Args:
        config: As of ``train``.
        overrides: As of ``train``.
        on_progress: As of ``train``.

    Raises:
        RayftError: See ``rayft.distributed.verify.verify``.
    """
    settings = resolve_config(config, overrides)
    with native_start_up():
        from rayft.distributed.verify import verify as run
    with _progress(on_progress) as tell:
        return run(settings, on_progress=tell)


def load(model: str | PathLike[str], registry: str | PathLike[str] | None = None) -> Predictor:
    """Load a package.

    Args:
        model: Folder or archive of a package, or folder of a run, as local path or pyarrow filesystem URI; or
            ``name``, ``name@version``, ``name@alias`` in the registry.
        registry: Path or URI of the registry; ``./registry`` if not given.

    Raises:
        PackageError: There is no package, or it is damaged.
        RegistryError: The registry has no such model or version.
        StorageError: The place cannot be read.
    """
    with native_start_up():
        from rayft.serve.predictor import load as open_package

        return open_package(model, registry)


def evaluate(
    model: str | PathLike[str],
    data: str | PathLike[str],
    *,
    split: str | None = None,
    output: str | PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    registry: str | PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Measure a package on labelled examples.

    Args:
        model: As of ``load``.
        data: Any source that ``data.source`` allows; its labels are matched by name.
        split: all, train, validation or test; test where the data names it, else all, if not given.
        output: Folder that receives predictions, metrics and a report.
        overrides: ``data.field=value``, for columns of other names than in training.
        registry: As of ``load``.
        on_progress: As of ``train``.

    Raises:
        RayftError: See ``rayft.serve.evaluate.evaluate``.
    """
    with native_start_up():
        from rayft.serve.evaluate import evaluate as run
    with _progress(on_progress) as tell:
        found = run(
            model, data, split=split, output=output, overrides=tuple(overrides), registry=registry, on_progress=tell
        )
    return Evaluation(found)


@contextlib.contextmanager
def _progress(on_progress: OnProgress | None) -> Iterator[OnProgress]:
    from rayft.screen import LiveLine

    if on_progress is not None:
        yield on_progress
        return
    with contextlib.closing(LiveLine()) as line:
        yield line
