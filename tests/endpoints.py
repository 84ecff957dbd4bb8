"""`rayft serve` as a process of its own, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
from pathlib import Path

from running import RAY_AGENTS, Command


@contextlib.contextmanager
def serving(home: Path, *arguments: str):
    """Start `rayft serve`; yields the command and its port once it is ready; nothing may be left after the block."""
    command = Command.start(home, "serve", *arguments, "--port", "0", "--json")
    try:
        command.wait_until(lambda: command.out.endswith("\n") or command.process.poll() is not None)
        assert command.process.poll() is None, command.err
        command.look()
        yield command, int(json.loads(command.out)["url"].rpartition(":")[2])
        if command.process.poll() is None:
            command.ask_to_stop(signal.SIGTERM)
            assert command.wait() == 0, command.err
            assert "stopping: " in command.err
        assert command.left(but=RAY_AGENTS) == []
    finally:
        command.clean_up()


def ask(port, path="/v1/models/zoo:predict", body=None, headers=None, timeout=60):
    """Return status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = headers or ({"Content-Type": "application/octet-stream"} if body is not None else {})
        connection.request("GET" if body is None else "POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
