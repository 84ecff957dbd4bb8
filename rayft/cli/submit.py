"""The command `rayft submit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rayft.cli.app import AddressOption, JsonOption, SetOption, app, read_config
from rayft.errors import ConfigError
from rayft.quiet import native_start_up

if TYPE_CHECKING:
    from rayft.jobs.submit import Request, Submitted


@app.command()
def submit(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="CONFIG|ARGUMENT...",
            help="The config of train or sweep; arguments of another --task, options after --.",
        ),
    ],
    address: AddressOption,
    task: Annotated[
        Literal["train", "sweep", "evaluate", "predict", "serve"], typer.Option("--task", help="The command that runs.")
    ] = "train",
    overrides: SetOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print its log until it ends; Ctrl-C leaves it.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the run; that of the config, or task and model, if not given.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run of this name first.")] = False,
    environment: Annotated[
        Literal["image", "pip", "uv"],
        typer.Option(
            "--env", help="Packages: those of the cluster's image, or installed by pip or uv as they are here."
        ),
    ] = "image",
    python: Annotated[
        str | None,
        typer.Option("--python", metavar="PATH", help="Interpreter of the job; Ray's own there if not given."),
    ] = None,
    driver_cpus: Annotated[
        float | None,
        typer.Option("--driver-cpus", min=0, help="CPUs for the command itself; 1 for evaluate, 0 for others."),
    ] = None,
    stop_within: Annotated[
        int,
        typer.Option("--stop-within", min=3, max=86400, metavar="SECONDS", help="What a stop allows for a checkpoint."),
    ] = 600,
    as_json: JsonOption = False,
) -> None:
    """Run a command as a job of a Ray cluster; a stopped or failed run of the same name goes on."""
    from rayft.jobs.submit import Request
    from rayft.jobs.submit import submit as send

    settings = None
    if task in ("train", "sweep"):
        settings = read_config(Path(words[0]), _with_name(overrides, name))
        words = words[1:]
        if words and not words[0].startswith("-"):
            raise ConfigError(
                f"{words[0]!r} follows the config, and {task} takes nothing more.",
                "Write settings as --set a.b=c, and options of the command itself after --.",
            )
    elif overrides:
        raise ConfigError(f"--set is given, and {task} has no config.", f"Give its own options after --: {task} -- ...")
    request = Request(
        task=task,
        words=words,
        config=settings,
        name=_checked_name(name),
        fresh=fresh,
        environment=environment,
        python=python,
        driver_cpus=driver_cpus if driver_cpus is not None else float(task == "evaluate"),
        stop_within_s=stop_within,
    )
    with native_start_up():
        from rayft.distributed.job_client import Cluster
    cluster = Cluster(address)
    outcome = send(cluster, request)
    _tell(outcome, request, address, as_json=as_json and not follow)
    if follow and outcome.news != "finished":
        from rayft.cli.jobs import follow_to_the_end

        follow_to_the_end(cluster, outcome.job, as_json=as_json)


def _with_name(overrides: list[str] | None, name: str | None) -> list[str]:
    return [*(overrides or ()), *([f"name={json.dumps(name)}"] if name else [])]


def _checked_name(name: str | None) -> str | None:
    import re

    from rayft.config.problems import NAME_PATTERN

    if name is not None and not re.match(NAME_PATTERN, name):
        raise ConfigError(
            f"--name is {name!r}; up to 100 letters, digits and _ . - are allowed, the first one no sign.",
            "Example: --name pets",
        )
    return name


_NEWS = {
    "submitted": "submitted {run} as job {job}",
    "resumed": "submitted {run} again as job {job}; it goes on where it stopped",
    "running": "{run} is {state} already, as job {job}; nothing was submitted",
    "finished": "{run} had finished before, as job {job}; nothing was submitted (--fresh starts anew)",
}


def _tell(outcome: Submitted, request: Request, address: str, *, as_json: bool) -> None:
    import sys

    job = outcome.job
    for remark in outcome.remarks:
        print(f"note: {remark}", file=sys.stderr)
    if as_json:
        print(json.dumps({"news": outcome.news, **job.as_dict()}))
        return
    print(_NEWS[outcome.news].format(run=job.run, job=job.id, state=job.in_words), file=sys.stderr, flush=True)
    if outcome.news in ("submitted", "resumed"):
        for what, command in (("watch", "jobs logs -f"), ("stop", "jobs stop")):
            print(f"{what}    rayft {command} {job.run} --address {address}", file=sys.stderr, flush=True)
