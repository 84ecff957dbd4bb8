"""Strict JSON: neither NaN nor endless depth, floats as short as float32 needs."""

from __future__ import annotations

from typing import Any

import orjson

from rayft.serve.contract import RequestError

JSON = "application/json"
_SHOWN = 60


def parse_object(body: bytes | memoryview) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        RequestError: 400: it is none.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(f"The body is not JSON: {error}.", "Send a JSON object in UTF-8.") from None
    if not isinstance(found, dict):
        raise RequestError(f"The body is {shown(found)}; a JSON object is allowed.", 'Send {"instances": [...]}.')
    return found


def dump(content: Any) -> bytes:
    """Write JSON; numpy arrays are lists."""
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def shown(value: Any) -> str:
    """Name a value of a request in an error, never at length."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    # The slice comes first: the text may be as long as the body.
    text = repr(value[:_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
