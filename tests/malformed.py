"""Requests that no endpoint may accept, from a seed."""

from __future__ import annotations

import base64
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from serving import noise


@dataclass(frozen=True)
class Malformed:
    """One request.

    Attributes:
        kind: What is wrong with it.
        path: Percent-encoded where it must be.
    """

    kind: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=edge"}
PICTURE = noise(1)
TEXT = base64.b64encode(PICTURE).decode()
PREDICT, EXPLAIN, INFER = "/v1/models/zoo:predict", "/v1/models/zoo:explain", "/v2/models/zoo/infer"
ROUTES = (PREDICT, "/v1/models/zoo/versions/3:predict", EXPLAIN, INFER, "/v2/models/zoo/versions/3/infer")

INSTANCES = {"instances": [{"b64": TEXT}]}
TENSORS = {"id": "7", "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}
# None of these may stand where a request has anything else.
JUNK = (None, True, -1, 0.5, 1e300, 2**63, 2**200, "", "\u0000", "é", "a" * 5000, [], [[]], [None], {}, {"b64": 1})
NAMES = (
    "..",
    "...",
    "../zoo",
    "zoo/../zoo",
    "zoo%2f..",
    "%00",
    "zoo%00",
    "%ff",
    "%2e%2e",
    "zoo\\x",
    "%0d%0aX: y",
    "$(id)",
    "zoo'--",
    "%F0%9F%90%BC",
    "a" * 3000,
    "zoo ",
    " ",
    "*",
    "CON",
    "~root",
    "zoo;x",
    "zoo@3",
    "%25",
    "{model}",
)


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """Return a PNG that claims a size; its checksums are right."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def binary(tree: dict, tail: bytes, length: int | None = None) -> tuple[dict[str, str], bytes]:
    """Return header and body of a request with a binary tensor."""
    head = json.dumps(tree).encode()
    return {"inference-header-content-length": str(len(head) if length is None else length)}, head + tail


def tensor(**entries) -> dict:
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], **entries}]}


def form(content: bytes, head: str = 'form-data; name="image"; filename="a.png"') -> bytes:
    return b"--edge\r\nContent-Disposition: " + head.encode() + b"\r\n\r\n" + content + b"\r\n--edge--\r\n"


def _truncated(rng: random.Random) -> Malformed:
    route = rng.choice(ROUTES)
    whole, headers = rng.choice(
        [
            (json.dumps(TENSORS if "infer" in route else INSTANCES).encode(), JSON),
            *([] if "infer" in route else [(form(PICTURE), FORM), (PICTURE, {"content-type": "image/png"})]),
        ]
    )
    # The last third of a picture may be missing without harm to its first rows, never to all of it.
    return Malformed("truncated", "POST", route, headers, whole[: rng.randrange(len(whole) * 2 // 3)])


def _wrong_type(rng: random.Random) -> Malformed:
    route = rng.choice(ROUTES)
    tree = json.loads(json.dumps(TENSORS if "infer" in route else INSTANCES))
    places: list[tuple[object, object]] = []

    def walk(node: object) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))
            walk(value)

    walk(tree)
    places = [place for place in places if place[1] != "id"]
    node, key = rng.choice(places)
    node[key] = rng.choice(JUNK)  # type: ignore[index]
    return Malformed("wrong type", "POST", route, JSON, json.dumps(tree).encode())


def _dimensions(rng: random.Random) -> Malformed:
    size = rng.choice([(2**31 - 1, 2**31 - 1), (60_000, 60_000), (1, 2**31 - 1), (0, 5), (30_000, 30_000)])
    picture = png(*size, b"\0" * rng.randrange(100))
    if rng.random() < 0.5:
        return Malformed("huge dimensions", "POST", PREDICT, {"content-type": "image/png"}, picture)
    tree = {"instances": [{"b64": base64.b64encode(picture).decode()}]}
    return Malformed("huge dimensions", "POST", rng.choice([PREDICT, EXPLAIN]), JSON, json.dumps(tree).encode())


def _deep(rng: random.Random) -> Malformed:
    depth = rng.choice([100, 1000, 5000, 100_000])
    open_, close = rng.choice([("[", "]"), ('{"a":', "}")])
    inner = open_ * depth + ("1" if open_ != "[" else "") + close * rng.choice([0, depth])
    route = rng.choice(ROUTES)
    key = "inputs" if "infer" in route else "instances"
    return Malformed("deep", "POST", route, JSON, f'{{"{key}": [{inner}]}}'.encode())


def _base64(rng: random.Random) -> Malformed:
    place = rng.randrange(len(TEXT) - 4)
    bad = rng.choice(
        [
            TEXT[:place] + rng.choice("!\n é-_ ,") + TEXT[place:],
            TEXT[: place - place % 4 + 1],
            "=" + TEXT,
            "data:," + TEXT,
        ]
    )
    route = rng.choice(ROUTES)
    tree = tensor(data=[bad]) if "infer" in route else {"instances": [{"b64": bad}]}
    return Malformed("bad base64", "POST", route, JSON, json.dumps(tree).encode())


def _shape(rng: random.Random) -> Malformed:
    shape = rng.choice(
        [[], [0], [2], [-1], [1, 1], [10**9], [2**62], [1, 6, 6, 3], [1] * 9, [1.5], ["1"], [[1]], None, "1"]
    )
    if rng.random() < 0.5:
        tail = struct.pack("<I", rng.choice([len(PICTURE), len(PICTURE) + 1, 2**32 - 1, 0])) + PICTURE
        tree = tensor(shape=shape, parameters={"binary_data_size": rng.choice([len(tail), len(tail) - 1, 10**12, -1])})
        headers, body = binary(tree, tail)
        return Malformed("wrong shape", "POST", INFER, headers, body)
    values = rng.choice([[1.0] * 108, [300.0] * 108, [1.0] * 107, [float("1e39")] * 108, ["1"] * 108, [[1.0]] * 3])
    shape = rng.choice([[1, 6, 6, 3], [1, 6, 6, 1], [1, 108], [2, 6, 6, 3], [1, 2**31 - 1, 2**31 - 1, 3]])
    if values == [1.0] * 108 and shape == [1, 6, 6, 3]:
        shape = [1, 6, 6, 4]
    return Malformed(
        "wrong shape", "POST", INFER, JSON, json.dumps(tensor(datatype="FP32", shape=shape, data=values)).encode()
    )


def _length(rng: random.Random) -> Malformed:
    tail = struct.pack("<I", len(PICTURE)) + PICTURE
    _, body = binary(tensor(parameters={"binary_data_size": len(tail)}), tail)
    value = rng.choice(["-1", "1", "99999999", "x", "1.5", "9" * 30, "0x10", "+5", "", "5 5"])
    return Malformed("wrong header length", "POST", INFER, {"inference-header-content-length": value}, body)


def _path(rng: random.Random) -> Malformed:
    name = rng.choice(NAMES).replace(" ", "%20").replace("\\", "%5c").replace("'", "%27")
    start, end, method = rng.choice(
        [
            ("/v1/models/", ":predict", "POST"),
            ("/v1/models/", ":explain", "POST"),
            ("/v2/models/", "/infer", "POST"),
            ("/v2/models/zoo/versions/", "/infer", "POST"),
            ("/v2/models/", "", "GET"),
            ("/v2/models/", "/ready", "GET"),
            ("/v1/models/", "", "GET"),
            ("/", "", "GET"),
        ]
    )
    return Malformed("path", method, start + name + end, {}, PICTURE if method == "POST" else b"")


def _bytes(rng: random.Random) -> Malformed:
    route = rng.choice(ROUTES)
    kind = rng.choice(
        [
            "",
            "application/json",
            "image/png",
            "application/octet-stream",
            "multipart/form-data; boundary=edge",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "text/csv",
            "\xff",
            ";;;",
            "application/json; charset=x",
        ]
    )
    body = rng.randbytes(rng.choice([0, 1, 10, 300, 5000]))
    return Malformed("random bytes", "POST", route, {"content-type": kind} if kind else {}, body)


def _utf8(rng: random.Random) -> Malformed:
    tree = rng.choice([TENSORS, INSTANCES])
    whole = json.dumps(tree).encode()
    route = PREDICT if tree is INSTANCES else INFER
    if rng.random() < 0.3:
        value = rng.choice([b"NaN", b"Infinity", b"-", b"01", b"1e", b"'x'", b"//", b"tru", b"\\", b"9" * 400])
        return Malformed(
            "broken text", "POST", route, JSON, whole.replace(b"[1]" if route == INFER else b"[{", value, 1)
        )
    # Nowhere in JSON may these stand.
    place = rng.randrange(1, len(whole) - 1)
    bad = rng.choice([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\0", b"\x1f"])
    return Malformed("broken text", "POST", route, JSON, whole[:place] + bad + whole[place + 1 :])


def _form(rng: random.Random) -> Malformed:
    body = rng.choice(
        [
            form(PICTURE, 'form-data; name="top"'),
            form(PICTURE, "form-data"),
            form(PICTURE, ""),
            form(b""),
            form(b"x" * rng.randrange(1, 1000)),
            form(PICTURE).replace(b"edge", b"egde"),
            form(PICTURE)[:-8],
            b"--edge--\r\n",
            b"--edge\r\n" * 1000,
            form(PICTURE, "form-data; " + "x" * 10_000),
            b"--edge\r\n" + b"X: y\r\n" * 500 + b"\r\n\r\n--edge--\r\n",
        ]
    )
    return Malformed("broken form", "POST", rng.choice([PREDICT, EXPLAIN]), FORM, body)


def _query(rng: random.Random) -> Malformed:
    query = rng.choice(
        [
            "top=0",
            "top=-1",
            "top=x",
            "top=1&top=2",
            "top=%31%00",
            "top=" + "9" * 50,
            "a=b",
            "&".join("a=1" for _ in range(50)),
            "%ff=%ff",
            "top=1.0",
            "label=cat",
        ]
    )
    return Malformed("query", "POST", f"{PREDICT}?{query}", {}, PICTURE)


def _header(rng: random.Random) -> Malformed:
    headers = rng.choice(
        [
            {"content-encoding": rng.choice(["gzip", "br", "x"])},
            {"x-request-timeout-seconds": rng.choice(["0", "-1", "nan", "inf", "1s", "", "1e400"])},
        ]
    )
    return Malformed("header", "POST", rng.choice(ROUTES[:1]), headers, PICTURE)


def _method(rng: random.Random) -> Malformed:
    path = rng.choice(
        ["/health/live", "/v2", "/v1/models", "/metrics", "/docs", "/openapi.json", "/v2/models/zoo", *ROUTES]
    )
    return Malformed("method", rng.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]), path, {}, b"")


KINDS: tuple[Callable[[random.Random], Malformed], ...] = (
    _truncated,
    _wrong_type,
    _dimensions,
    _deep,
    _base64,
    _shape,
    _length,
    _path,
    _bytes,
    _utf8,
    _form,
    _query,
    _header,
    _method,
)


def malformed(count: int, seed: int) -> Iterator[Malformed]:
    """Yield requests of all kinds, in turn."""
    rng = random.Random(seed)
    for index in range(count):
        yield KINDS[index % len(KINDS)](rng)
