"""The command `rayft serve`."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rayft.cli.app import JsonOption, app
from rayft.errors import RunInterrupted
from rayft.quiet import native_start_up

if TYPE_CHECKING:
    from rayft.config import ServeConfig

_TWICE_S = 0.5


@app.command()
def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]...", help="Names, name@version or name@alias of the registry, or folders of packages."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file; docs/serving.md lists fields.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one field; may be given many times.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address that is bound; 127.0.0.1 if not given.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port of HTTP, 0 for a free one; 8000.")] = None,
    grpc_port: Annotated[int | None, typer.Option("--grpc-port", help="Port of gRPC; none if not given.")] = None,
    replicas: Annotated[int | None, typer.Option("--replicas", help="Processes that answer; 1.")] = None,
    autoscale: Annotated[
        str | None, typer.Option("--autoscale", metavar="MIN:MAX", help="Replicas by load, between two numbers.")
    ] = None,
    keys: Annotated[str | None, typer.Option("--keys", help="File of API keys.")] = None,
    tls_cert: Annotated[str | None, typer.Option("--tls-cert", help="Certificate, PEM.")] = None,
    tls_key: Annotated[str | None, typer.Option("--tls-key", help="Its private key, PEM.")] = None,
    tls_client_ca: Annotated[
        str | None,
        typer.Option("--tls-client-ca", help="Certificates that sign clients', which must show one."),
    ] = None,
    access_log: Annotated[
        str | None, typer.Option("--access-log", metavar="FILE", help="Gets a line of JSON for each request.")
    ] = None,
    address: Annotated[str | None, typer.Option("--address", help="Ray address; deploys on that cluster.")] = None,
    write_config: Annotated[
        Path | None, typer.Option("--write-config", help="Write a Ray Serve config for `serve deploy`, and end.")
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option("--registry", metavar="PLACE", help="Path or URI; then the config's, RAYFT_REGISTRY, ./registry."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Answer requests over HTTP and gRPC until Ctrl-C."""
    given: dict[str, Any] = {
        "models": list(models or ()),
        "host": host,
        "port": port,
        "grpc_port": grpc_port,
        "replicas": replicas,
        "autoscale": None if autoscale is None else _range(autoscale),
        "keys": keys,
        "tls": _tls(tls_cert, tls_key, tls_client_ca),
        "access_log": access_log,
        "address": address,
        "registry": registry,
    }
    from rayft.config.serve import load_serve_config

    given = {name: value for name, value in given.items() if value not in (None, [])}
    settings = load_serve_config(config, given, overrides or ())
    if settings.registry is None and (place := os.environ.get("RAYFT_REGISTRY")):
        settings = load_serve_config(config, {**given, "registry": place}, overrides or ())
    if write_config is not None:
        from rayft.serve.declare import write_declaration

        write_declaration(settings, write_config)
        print(f"wrote {write_config}; next: serve deploy {write_config}", file=sys.stderr)
        return
    _run(settings, as_json=as_json)


def _run(settings: ServeConfig, *, as_json: bool) -> None:
    with native_start_up():
        from rayft.serve.endpoint import deployed
    signals: list[int] = []
    times: list[float] = []

    def stop(number: int, frame: Any) -> None:
        signals.append(number)
        times.append(time.monotonic())
        # Whoever asks again does not want to wait for the drain; `timeout` and its like send a signal twice at once.
        if times[-1] - times[0] > _TWICE_S:
            raise KeyboardInterrupt

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "connected":
            # Ray has put its own in their place, which ends the process without a word to anyone.
            for number in before:
                signal.signal(number, stop)
        _tell(event)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with deployed(settings, hear) as endpoint:
            if endpoint.wait(lambda: bool(signals)):
                grpc = f", gRPC at {endpoint.grpc_address}" if endpoint.grpc_address else ""
                names = ", ".join(f"{model['name']}@{model['version']}" for model in endpoint.models)
                print(f"ready: {names} at {endpoint.url}{grpc}; Ctrl-C stops it", file=sys.stderr)
                if as_json:
                    facts = {"url": endpoint.url, "grpc": endpoint.grpc_address, "models": endpoint.models}
                    print(json.dumps({"event": "ready", "pid": os.getpid(), **facts}), flush=True)
                endpoint.run(lambda: bool(signals))
            print("stopping: answering the requests that are under way", file=sys.stderr)
    except KeyboardInterrupt:
        raise typer.Exit(RunInterrupted.exit_code) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    # A supervisor's stop is the regular end of an endpoint.
    if signal.SIGINT in signals:
        raise typer.Exit(RunInterrupted.exit_code)


# What replicas say, in words; events without a line here are not for people.
_WORDS = {
    "ray": "starting Ray",
    "loading": "replica {replica:.4}: loading and warming {models}",
    "serves": "replica {replica:.4}: {name} serves version {version}",
    "stays": "replica {replica:.4}: {name}: {problem}",
    "ready": "replica {replica:.4}: ready after {seconds} s",
}


def _tell(event: dict[str, Any]) -> None:
    words = _WORDS.get(event["event"])
    if words is not None:
        print(words.format(**event), file=sys.stderr, flush=True)


def _tls(cert: str | None, key: str | None, client_ca: str | None) -> dict[str, Any] | None:
    if cert is None and key is None and client_ca is None:
        return None
    return {"cert": cert or "", "key": key or "", "client_ca": client_ca}


def _range(text: str) -> dict[str, Any]:
    low, _, high = text.partition(":")
    # What is no number is told by the config, with the field's name.
    return {"min_replicas": _number(low), "max_replicas": _number(high)}


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
