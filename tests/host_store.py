"""An S3 server that can be made to fail, as a process of its own.

    host_store.py HOST PORT

answers there until it ends; `PUT /outage/SECONDS` lets it refuse everything for so long, as an overloaded store does.
"""

import sys
import time

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class _WithOutages:
    """The store, and times in which it answers 503."""

    def __init__(self) -> None:
        self._store = DomainDispatcherApplication(create_backend_app)
        self._until = 0.0

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"].startswith("/outage/"):
            self._until = time.monotonic() + float(environ["PATH_INFO"].rpartition("/")[2])
        elif time.monotonic() < self._until:
            # Read it all, or the client sees a broken connection in the place of the answer.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(_BUSY)))])
            return [_BUSY]
        else:
            return self._store(environ, start_response)
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]


class _Handler(MotoRequestHandler):
    # As clients of the store keep their connections.
    protocol_version = "HTTP/1.1"

    def log_request(self, *arguments) -> None:
        pass


if __name__ == "__main__":
    make_server(sys.argv[1], int(sys.argv[2]), _WithOutages(), threaded=True, request_handler=_Handler).serve_forever()
