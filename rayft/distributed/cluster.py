"""The Ray cluster that a run uses: an embedded one, or one that is there already."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rayft.capacity import check_capacity, check_nodes
from rayft.config import ClusterConfig
from rayft.credentials import ensure_token, find_token, token_required
from rayft.distributed.allocator import allocator_environment, inherited_environment
from rayft.distributed.signals import SIGNAL_LAG_S, heard_signals, kept_signals
from rayft.errors import ClusterError, RayftError, RunFailed, RunInterrupted
from rayft.quiet import native_words

_ANSWER_S = 10.0


@contextlib.contextmanager
def connect(config: ClusterConfig, metrics_port: int | None = None) -> Iterator[None]:
    """Join the cluster of the config, or start an embedded one that ends with the block.

    Args:
        config: Where, and what must fit.
        metrics_port: Where an embedded Ray shows metrics; a free port if not given.

    Raises:
        ClusterError: The address does not answer, the cluster is too small for the workers, or the port is taken.
        RunInterrupted: SIGTERM or SIGINT came while Ray started.
    """
    if config.address is None:
        check_capacity(config, embedded_resources())
        _require_free_port(metrics_port)
        ensure_token()
    else:
        _require_answer(config.address)
        _require_token(config.address)
    words: list[str] = []
    # An embedded Ray has nothing to say here.
    kept_words = contextlib.nullcontext(words) if config.address is None else native_words()
    own = {} if config.address else allocator_environment(len(os.sched_getaffinity(0)))
    try:
        # Ray forks when it starts, where what a handler raises is lost.
        with kept_signals(), heard_signals() as heard, kept_words as words, inherited_environment(own):
            ray.init(
                address=config.address or "local",
                include_dashboard=False if config.address is None else None,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
                _metrics_export_port=metrics_port,
            )
    except SystemExit:
        # What Ray's own handler of SIGTERM makes of it.
        raise _interrupted(signal.SIGTERM) from None
    except (ConnectionError, ValueError, OSError) as error:
        if "InvalidAuthToken" in "".join(words):
            raise _other_token(config.address) from None
        print("".join(words), end="", file=sys.stderr)
        raise _unreachable(config.address, str(error).splitlines()[0]) from None
    print("".join(words), end="", file=sys.stderr)
    code = RunFailed.exit_code
    try:
        if heard:
            raise _interrupted(heard[0])
        if config.address is not None:
            check_nodes(config, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        yield
    except RayftError as error:
        code = error.exit_code
        # A signal to the whole process group ends an embedded Ray as well, a moment after it has reached this process.
        end = time.monotonic() + SIGNAL_LAG_S
        while config.address is None and code == RunInterrupted.exit_code and time.monotonic() < end:
            if has_ended():
                break
            time.sleep(0.1)
        raise
    finally:
        if has_ended() or not answers(config.address):
            # To ask it would take a minute, after which Ray ends this process without a word.
            atexit.unregister(ray.shutdown)
            atexit.register(_end_at_once, code)
        else:
            ray.shutdown()


def _interrupted(number: int) -> RunInterrupted:
    return RunInterrupted(f"Ended by {signal.Signals(number).name} while Ray started.", "Run the same command again.")


def has_ended() -> bool:
    """Whether the embedded Ray of this process has lost a process of its own, without which it can do nothing."""
    node = ray._private.worker._global_node
    return node is not None and any(kind in ("gcs_server", "raylet") for kind, _ in node.dead_processes())


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Return what keeps an actor on the node of the process that starts it."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def answers(address: str | None) -> bool:
    """Whether somebody listens at the address of a standing cluster; True where it cannot be told."""
    try:
        _require_answer(address or "")
    except ClusterError:
        return False
    return True


def _end_at_once(code: int) -> None:
    """End this process without Python's own clean-up, in which a thread that waits for a lost Ray would crash."""
    ray._private.worker._global_node.kill_all_processes(check_alive=False, allow_graceful=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _require_token(address: str) -> None:
    """Ray switches token authentication on for clusters that it starts itself, not for those that it joins."""
    if token_required() and find_token() is None:
        raise ClusterError(
            f"There is no token for the Ray cluster at cluster.address {address!r}.",
            "Put what `ray get-auth-token` prints on its head node into ~/.ray/auth_token, mode 0600, or name the file "
            "in RAY_AUTH_TOKEN_PATH. Set RAY_AUTH_MODE=disabled for a cluster that asks for none.",
        )


def _other_token(address: str | None) -> ClusterError:
    found = find_token()
    given = "no token" if found is None or not token_required() else f"the token of {found[1]}"
    return ClusterError(
        f"The Ray cluster at cluster.address {address!r} refuses {given}.",
        "Put what `ray get-auth-token` prints on its head node there, or name its file in RAY_AUTH_TOKEN_PATH; with "
        "RAY_AUTH_MODE=disabled no token is sent.",
    )


def metrics_address() -> str | None:
    """Return where this process's node shows metrics, as host:port; None where Ray exports none."""
    node = next((each for each in ray.nodes() if each["NodeID"] == ray.get_runtime_context().get_node_id()), None)
    return (
        f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}" if node and node["MetricsExportPort"] > 0 else None
    )


def _require_free_port(port: int | None) -> None:
    """Ray's agent would train on without its metrics."""
    if port is None:
        return
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        raise ClusterError(
            f"track.metrics_port is {port}: {error.strerror}.", "Choose another port, or leave it out for a free one."
        ) from None


def _require_answer(address: str) -> None:
    """Knock at an address of the form host:port; Ray itself would try for minutes."""
    host, separator, port = address.rpartition(":")
    if not (separator and port.isdecimal()) or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str | None, reason: str) -> ClusterError:
    return ClusterError(
        f"Cannot reach the Ray cluster at cluster.address {address!r}: {reason}",
        "Give the address that `ray start` printed, or leave cluster.address empty for an embedded Ray.",
    )


def embedded_resources() -> dict[str, float]:
    """Return what an embedded Ray would offer on this machine."""
    from ray._private.accelerators import get_accelerator_manager_for_resource

    gpus = get_accelerator_manager_for_resource("GPU").get_current_node_num_accelerators()
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(gpus)}
