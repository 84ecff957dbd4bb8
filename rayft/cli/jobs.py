"""The commands `rayft jobs list`, `show`, `logs` and `stop`."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from rayft.cli.app import AddressOption, JsonOption, app
from rayft.errors import RunFailed, RunInterrupted
from rayft.quiet import native_start_up

if TYPE_CHECKING:
    from rayft.distributed.job_client import Cluster
    from rayft.jobs.job import Job

commands = typer.Typer(no_args_is_help=True, help="Jobs of a cluster: list, show, logs, stop.", rich_markup_mode=None)
app.add_typer(commands, name="jobs")

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run, or id of the job.")]


def connected(address: str) -> Cluster:
    """Return the cluster at an address, which answers and takes the token."""
    with native_start_up():
        from rayft.distributed.job_client import Cluster
    return Cluster(address)


@commands.command("list")
def list_jobs(address: AddressOption, as_json: JsonOption = False) -> None:
    """Show the jobs that rayft submitted to the cluster, the newest first."""
    from rayft.screen import format_duration

    jobs = connected(address).jobs()
    if as_json:
        print(json.dumps([job.as_dict() for job in jobs]))
        return
    for job in jobs:
        took = format_duration((job.ended or time.time()) - job.started) if job.started else ""
        code = f" ({job.exit_code})" if job.exit_code else ""
        print(f"{job.run:24} {job.task:9} {job.in_words + code:13} {took:>12}  {job.id}")
    print(f"{len(jobs)} jobs", file=sys.stderr)


@commands.command()
def show(run: RunArgument, address: AddressOption, as_json: JsonOption = False) -> None:
    """Show how a run stands, or how it ended."""
    from rayft.jobs.watch import standing

    cluster = connected(address)
    found = standing(cluster, cluster.job(run), {node.id: node.ip for node in cluster.nodes()})
    if as_json:
        print(json.dumps(found.as_dict()))
        return
    print(found.in_words(time.time()))
    job = found.job
    for name, value in {**job.facts, "exit_code": job.exit_code}.items():
        if value not in (None, ""):
            print(f"    {name:14} {value}")
    if job.state == "FAILED":
        print(f"    {job.message.strip()}")


@commands.command()
def logs(
    run: RunArgument,
    address: AddressOption,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until it ends; Ctrl-C leaves it running.")] = False,
) -> None:
    """Print what a job has printed."""
    cluster = connected(address)
    job = cluster.job(run)
    if follow:
        follow_to_the_end(cluster, job)
    else:
        print(cluster.log(job), end="")


@commands.command()
def stop(
    run: RunArgument,
    address: AddressOption,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has left its checkpoint.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Ask a job to leave a checkpoint and end; the same `rayft submit` goes on from there."""
    from rayft.jobs.watch import last_words, wait_until_over

    cluster = connected(address)
    job = cluster.job(run)
    was_over = job.is_over
    if not was_over:
        cluster.stop_job(job.id)
        print(f"{job.run} is asked to stop at a checkpoint", file=sys.stderr, flush=True)
        if wait:
            # Ray ends by force what has not ended within it.
            job = wait_until_over(cluster, job, float(job.facts.get("stop_within_s", 3)) + 30)
    said = last_words(cluster, job)
    if as_json:
        print(json.dumps({**job.as_dict(), "said": said}))
    elif was_over:
        print(f"{job.run} was {job.in_words} already, as job {job.id}")
    else:
        print("\n".join([f"{job.run} is {job.in_words}", *([f"    {said}"] if said else [])]))
    if not was_over and wait and not job.is_over:
        raise RunFailed(f"The job {job.id} has not ended.", "Look at it: `rayft jobs logs`.")


def follow_to_the_end(cluster: Cluster, job: Job, *, as_json: bool = False) -> None:
    """Print a job's log until it ends; leave with the code of its end.

    With ``as_json`` the log goes to stderr, and what became of the job to stdout.
    """
    from rayft.jobs.watch import follow

    stream = sys.stderr if as_json else sys.stdout
    try:
        job = follow(cluster, job, lambda text: print(text, end="", file=stream, flush=True))
    except (KeyboardInterrupt, RunInterrupted):
        raise RunInterrupted(
            f"{job.run} goes on as job {job.id}.", f"Stop it with `rayft jobs stop {job.run} --address {cluster.url}`."
        ) from None
    if as_json:
        print(json.dumps(job.as_dict()))
    else:
        print(f"{job.run} is {job.in_words}", file=sys.stderr)
    if job.state == "STOPPED":
        raise typer.Exit(RunInterrupted.exit_code)
    if job.state == "FAILED":
        if job.exit_code is None:
            raise RunFailed(
                f"The job {job.id} failed: {job.message.strip().splitlines()[0] if job.message else 'no reason given'}",
                "Look at the cluster: its interpreter may lack rayft (--env pip brings it), or a node may be gone.",
            )
        raise typer.Exit(job.exit_code if job.exit_code in (1, 2, 130) else RunFailed.exit_code)
