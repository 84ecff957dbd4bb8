"""Listeners of one process, in its event loop: HTTP and gRPC on the addresses that the user asked for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from uvicorn.config import Config
from uvicorn.server import ServerState

from rayft.errors import ConfigError
from rayft.serve.contract import Engine
from rayft.serve.grpc.service import InferenceService
from rayft.serve.http.about import Metrics
from rayft.serve.http.endpoint import build_application
from rayft.serve.http.protocol import BoundedProtocol, sweep
from rayft.serve.http.routes import Route
from rayft.serve.keys import Keyring, check_exposure
from rayft.serve.limits import Limits
from rayft.serve.tls import TlsFiles, http_context, read_files

_BACKLOG = 1024
# Longer than the pauses of usual clients, which would else meet a connection that is just being closed.
_IDLE_S = 75
_POLL_S = 0.02
_GRPC_AGE_S = 300


@dataclass(frozen=True)
class ListenSettings:
    """Where to listen, and for whom.

    Attributes:
        host: Address or name; 0.0.0.0 and :: are every one.
        port: Of HTTP; 0 takes a free one, which others cannot share then.
        grpc_port: Of gRPC; None for no gRPC.
        keys: File of API keys; None, on loopback only, lets everybody in.
        tls: Files of the certificate; None for none.
        limits: Bounds of requests.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    keys: Path | None = None
    tls: TlsFiles | None = None
    limits: Limits = field(default_factory=Limits)


def reserve_port(host: str, port: int) -> socket.socket:
    """Keep an address for the processes that will share it.

    Args:
        host: As in the settings.
        port: 0 takes a free one.

    Returns:
        A socket that takes no connections; while it is open, nobody else gets the address but who shares it.
        ``getsockname()[1]`` is the port.

    Raises:
        ConfigError: Somebody else listens there; names the address and the remedy.
    """
    # A shared address would be shared with strangers too: first ask for it alone.
    alone = _bind(host, port, shared=False)
    found = alone.getsockname()[1]
    alone.close()
    return _bind(host, found, shared=True)


async def start_listening(
    engine: Engine, settings: ListenSettings, *, metrics: Metrics, extra_routes: Sequence[Route] = ()
) -> Listeners:
    """Listen in the running event loop; the port may be shared by other processes that call this.

    Args:
        engine: Answers.
        settings: Where, and for whom.
        metrics: Returns content type and body of ``/metrics``.
        extra_routes: More routes of HTTP.

    Raises:
        ConfigError: An address is taken or unknown, it is reachable without keys, or a file cannot be used.
    """
    check_exposure(settings.host, settings.keys)
    keyring = None if settings.keys is None else Keyring(settings.keys)
    context = None if settings.tls is None else http_context(settings.tls)
    application = build_application(
        engine, metrics=metrics, keyring=keyring, limits=settings.limits, extra_routes=extra_routes
    )
    config = Config(
        application, interface="asgi3", lifespan="off", ws="none", log_config=None, timeout_keep_alive=_IDLE_S
    )
    config.load()
    state = ServerState()
    protocol = functools.partial(
        BoundedProtocol, config=config, server_state=state, app_state={}, limits=settings.limits
    )
    listening = _bind(settings.host, settings.port, shared=True)
    server = await asyncio.get_running_loop().create_server(
        protocol,
        sock=listening,
        backlog=_BACKLOG,
        ssl=context,
        ssl_handshake_timeout=None if context is None else settings.limits.slow_client_s,
    )
    port = listening.getsockname()[1]
    calls = None if settings.grpc_port is None else await _start_grpc(engine, settings, keyring)
    return Listeners(settings, state, server, port, calls)


class Listeners:
    """What listens.

    Attributes:
        port: Of HTTP.
        grpc_port: None without gRPC.
    """

    def __init__(
        self,
        settings: ListenSettings,
        state: ServerState,
        server: asyncio.AbstractServer,
        port: int,
        calls: tuple[grpc.aio.Server, int] | None,
    ) -> None:
        self.port = port
        self._calls: grpc.aio.Server | None = None if calls is None else calls[0]
        self.grpc_port: int | None = None if calls is None else calls[1]
        self._settings = settings
        self._state = state
        self._server = server
        self._sweeper = asyncio.get_running_loop().create_task(sweep(state.connections))  # type: ignore[arg-type]

    async def stop(self) -> None:
        """Take no more connections, answer what has come, at most for ``drain_s``, and end."""
        self._server.close()
        calls = None
        if self._calls is not None:
            calls = asyncio.ensure_future(self._calls.stop(self._settings.limits.drain_s))
        until = time.monotonic() + self._settings.limits.drain_s
        for connection in list(self._state.connections):
            connection.shutdown()
        while self._state.connections and time.monotonic() < until:
            await asyncio.sleep(_POLL_S)
        for connection in list(self._state.connections):
            connection.transport.abort()
        for task in list(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        self._sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._sweeper
        await self._server.wait_closed()
        if calls is not None:
            await calls


async def _start_grpc(engine: Engine, settings: ListenSettings, keyring: Keyring | None) -> tuple[grpc.aio.Server, int]:
    assert settings.grpc_port is not None
    # gRPC itself would only say that it could not bind.
    probe = _bind(settings.host, settings.grpc_port, shared=True)
    host = probe.getsockname()[0]
    limits = settings.limits
    server = grpc.aio.server(
        options=[
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", limits.max_body_bytes),
            ("grpc.server_handshake_timeout_ms", round(limits.slow_client_s * 1e3)),
            # Clients spread over new replicas when their connection ends; calls under way are answered first.
            ("grpc.max_connection_age_ms", _GRPC_AGE_S * 1000),
            ("grpc.max_connection_age_grace_ms", round(limits.deadline_s * 1e3)),
        ],
        maximum_concurrent_rpcs=limits.max_connections,
    )
    server.add_generic_rpc_handlers((InferenceService(engine, keyring, limits).handler(),))
    address = f"[{host}]:{settings.grpc_port}" if ":" in host else f"{host}:{settings.grpc_port}"
    try:
        if settings.tls is None:
            port = server.add_insecure_port(address)
        else:
            key, cert, client_ca = read_files(settings.tls)
            credentials = grpc.ssl_server_credentials([(key, cert)], client_ca, client_ca is not None)
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ConfigError(f"gRPC cannot listen on {address}.", "Take another port.") from None
    finally:
        probe.close()
    await server.start()
    return server, port


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    """Return a bound socket; names are resolved, to their first address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ConfigError(
            f"The host {host!r} is unknown here: {error.strerror}.", "Give an address of this machine."
        ) from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        fixes = {
            errno.EADDRINUSE: f"Stop what listens there (ss -ltnp 'sport = :{port}'), or take another port.",
            errno.EADDRNOTAVAIL: "Give an address of this machine.",
            errno.EACCES: "Take a port from 1024 on.",
        }
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror}.",
            fixes.get(error.errno or 0, "Take another address or port."),
        ) from None
    bound.setblocking(False)
    return bound
