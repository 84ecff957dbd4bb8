"""The command `rayft predict`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rayft.cli.app import JsonOption, ModelArgument, RegistryOption, app
from rayft.errors import ConfigError, DataError
from rayft.quiet import native_start_up

if TYPE_CHECKING:
    from rayft.data.inputs import Inputs
    from rayft.serve.answers import Answer, Write
    from rayft.serve.predictor import Predictor

# From so many on, starting a cluster costs less than it saves.
_MANY = 10_000


@app.command()
def predict(
    model: ModelArgument,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Pictures, folders of them, Parquet or Arrow tables.")
    ],
    top: Annotated[
        int | None,
        typer.Option("--top", min=1, help="Classes shown for each picture; otherwise one, or all above .5 of several."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write answers there: a .jsonl or .parquet file.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Spread over so many workers with Ray Data.")
    ] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="Ray address; spreads over that cluster.")] = None,
    on_bad: Annotated[
        Literal["fail", "skip"], typer.Option("--on-bad", help="Pictures that cannot be used: fail, or go on.")
    ] = "fail",
    registry: RegistryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what pictures show."""
    started = time.monotonic()
    if output is not None and output.suffix not in (".jsonl", ".parquet"):
        raise ConfigError(f"--output is {str(output)!r}; .jsonl or .parquet files are allowed.", "Rename it.")
    from rayft.data.dataset import default_cache_folder
    from rayft.data.inputs import open_inputs

    pictures = open_inputs(inputs, default_cache_folder())
    from rayft.registry.locate import pinned

    # An alias may move meanwhile, and workers have other working directories.
    model, registry = pinned(model, registry)
    with native_start_up():
        from rayft.serve.predictor import load

        predictor = load(model, registry)
    if top is None and not predictor.multi_label:
        top = 1
    spread = workers is not None or cluster is not None or len(pictures) >= _MANY
    if spread:
        answers = _on_cluster(model, registry, pictures, predictor, workers, cluster)
    else:
        from rayft.serve.batch import answer_all

        answers = answer_all(predictor, pictures)
    with _target(output, predictor, top, as_json) as write:
        bad = _drain(answers, write, len(pictures), on_bad, shows=output is not None)
    if output is not None:
        seconds = time.monotonic() - started
        if as_json:
            print(json.dumps({"pictures": len(pictures), "bad": bad, "output": str(output), "seconds": seconds}))
        else:
            print(f"{len(pictures):,} pictures in {seconds:.1f} s, {bad} bad: {output}")


def _on_cluster(
    model: str, registry: str | None, pictures: Inputs, predictor: Predictor, workers: int | None, address: str | None
) -> Iterator[list[Answer]]:
    from rayft.config import ClusterConfig

    with native_start_up():
        from rayft.distributed.cluster import embedded_resources
        from rayft.distributed.predict import predict_on_cluster

    count = workers or (1 if address else max(1, int(embedded_resources()["CPU"])))
    print(f"spreading {len(pictures):,} pictures over {count} workers", file=sys.stderr)
    settings = ClusterConfig(address=address, workers=count)
    return predict_on_cluster(model, pictures, len(predictor.labels), settings, registry)


def _drain(
    answers: Iterator[list[Answer]], write: Write, total: int, on_bad: Literal["fail", "skip"], *, shows: bool
) -> int:
    """Write all answers; returns the number of bad pictures."""
    from rayft.screen import LiveLine

    done = bad = 0
    with contextlib.closing(LiveLine()) as line:
        for some in answers:
            failed = [answer for answer in some if answer.error]
            if failed and on_bad == "fail":
                raise DataError(str(failed[0].error), "Repair or remove it, or go on without with --on-bad skip.")
            for answer in failed:
                print(f"skipped: {answer.error}", file=sys.stderr)
            write(some)
            # A line for each tenth, so that a log stays short.
            is_news = (done + len(some)) * 10 // total > done * 10 // total
            done, bad = done + len(some), bad + len(failed)
            if shows and is_news:
                line({"phase": f"answered {done:,} of {total:,}"})
    return bad


@contextlib.contextmanager
def _target(output: Path | None, predictor: Predictor, top: int | None, as_json: bool) -> Iterator[Write]:
    from rayft.serve import answers

    if output is not None:
        with answers.open_output(output, predictor.labels, top) as write:
            yield write
        return
    show = answers.as_json if as_json else answers.as_text
    yield lambda some: print("\n".join(show(answer, predictor.labels, top) for answer in some))
