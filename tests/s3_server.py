"""A local server that speaks S3, for as long as a context lasts."""

import contextlib
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "planted-secret-of-s3"}


@dataclass(frozen=True)
class Bucket:
    """An empty bucket.

    Attributes:
        address: host:port of the server.
    """

    address: str

    def uri(self, path: str) -> str:
        """Return the URI of a path in the bucket, with all that pyarrow must know."""
        return f"s3://bucket/{path}?endpoint_override={self.address}&scheme=http&region=us-east-1"


@contextlib.contextmanager
def s3_bucket() -> Iterator[Bucket]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    # Commands that a test starts take the keys from there, as they do outside of tests.
    before = {name: os.environ.get(name) for name in KEYS}
    os.environ.update(KEYS)
    try:
        address = "{}:{}".format(*server.get_host_and_port())
        urllib.request.urlopen(urllib.request.Request(f"http://{address}/moto-api/reset", method="POST")).close()
        urllib.request.urlopen(urllib.request.Request(f"http://{address}/bucket", method="PUT")).close()
        yield Bucket(address)
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        server.stop()
