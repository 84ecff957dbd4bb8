"""Who may ask for what: the key of a request, and its scope."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from rayft.serve.contract import RequestError
from rayft.serve.keys import EVERY_MODEL, Key, Keyring


def presented_key(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request, however it is sent; header names in lower case."""
    plain = headers.get("x-api-key")
    if plain is not None:
        return plain.strip()
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    # A page elsewhere could make a browser send this one along.
    if scheme.lower() == "basic" and headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            return None
    return None


def authenticate(keyring: Keyring, presented: str | None) -> Key:
    """Return the key that a request presents.

    Raises:
        RequestError: 401.
    """
    key = None if presented is None else keyring.find(presented)
    if key is None:
        problem = "The request has no API key." if presented is None else "The API key is unknown or has expired."
        raise RequestError(problem, "Send it as Authorization: Bearer KEY, or as X-API-Key: KEY.", 401)
    return key


def authorize(key: Key, model: str | None) -> None:
    """Check the scope of a key.

    Args:
        key: Of the request.
        model: What is asked for: a name, ``*`` for every one, None for none.

    Raises:
        RequestError: 403.
    """
    if model is not None and not key.covers(model):
        what = "every model" if model == EVERY_MODEL else "this model"
        raise RequestError(f"The key {key.name!r} is not for {what}.", "Use another key.", 403)
