"""API keys: a file of their hashes, and what each may reach.

A key holds 256 random bits, so that one SHA-256 is as good at rest as a slow hash.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import hmac
import ipaddress
import json
import logging
import os
import re
import secrets
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rayft.config.problems import NAME_PATTERN
from rayft.errors import ConfigError

EVERY_MODEL = "*"
PREFIX = "rayft_"
_FORMAT = 1
_POLL_S = 1.0
_DAY_S = 86400.0
_MAX_PRESENTED = 256
_log = logging.getLogger("rayft.serve")


@dataclass(frozen=True)
class Key:
    """What is kept of a key.

    Attributes:
        name: Who uses it; appears in the access log.
        sha256: Of the key itself, in hex.
        models: Names of the models it may reach; ``*`` is every one.
        created: Seconds since 1970.
        expires: Seconds since 1970; None for never.
    """

    name: str
    sha256: str
    models: tuple[str, ...]
    created: float
    expires: float | None = None

    def covers(self, model: str) -> bool:
        """Tell whether it may reach a model; ``*`` asks for every one."""
        return EVERY_MODEL in self.models or model in self.models


def read_keys(path: Path) -> tuple[Key, ...]:
    """Read a file of keys.

    Raises:
        ConfigError: It cannot be read, or is none.
    """
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"Cannot read the keys {str(path)!r}: {error.strerror}.", f"Make one: rayft keys create {path} NAME."
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}.", "Restore it, or make new keys.") from None
    try:
        if tree["format"] != _FORMAT:
            raise ValueError(f"format {tree['format']!r}")
        keys = tuple(Key(**{**entry, "models": tuple(entry["models"])}) for entry in tree["keys"])
        for key in keys:
            if not re.fullmatch("[0-9a-f]{64}", key.sha256) or not (key.expires is None or key.expires > 0):
                raise ValueError(f"the entry {key.name!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} holds no keys of rayft: {error}.", "Restore it, or make new keys.") from None
    return keys


def create_key(path: Path, name: str, models: Sequence[str] = (), days: float | None = None) -> str:
    """Add a key to a file, which is made if there is none; returns the key, which is kept nowhere.

    Args:
        path: The file.
        name: Who uses it.
        models: What it may reach; every model if empty.
        days: After which it is refused; None for never.

    Raises:
        ConfigError: The name is taken or not allowed, or the file cannot be written.
    """
    for given in (name, *models):
        if given != EVERY_MODEL and not re.fullmatch(NAME_PATTERN, given):
            raise ConfigError(f"The name {given!r} is not allowed.", "Use letters, digits, '.', '_' and '-'.")
    if name == EVERY_MODEL:
        raise ConfigError("A key cannot be called '*'.", "Call it after who uses it.")
    with _locked(path):
        keys = read_keys(path) if path.exists() else ()
        if any(key.name == name for key in keys):
            raise ConfigError(f"{path} has a key {name!r}.", f"Revoke it first: rayft keys revoke {path} {name}.")
        secret = PREFIX + secrets.token_urlsafe(32)
        now = time.time()
        expires = None if days is None else now + days * _DAY_S
        _write(path, (*keys, Key(name, _digest(secret), tuple(models) or (EVERY_MODEL,), now, expires)))
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Remove a key from a file.

    Raises:
        ConfigError: It has no such key, or cannot be written.
    """
    with _locked(path):
        keys = read_keys(path)
        kept = tuple(key for key in keys if key.name != name)
        if len(kept) == len(keys):
            names = ", ".join(key.name for key in keys) or "none"
            raise ConfigError(f"{path} has no key {name!r}; it has {names}.", "Name one of them.")
        _write(path, kept)


class Keyring:
    """The keys of a file, read anew when it changes.

    Args:
        path: The file.

    Raises:
        ConfigError: As ``read_keys``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _mark(path)
        self._keys = read_keys(path)
        self._looked = time.monotonic()

    def find(self, presented: str) -> Key | None:
        """Return the key that a client presents; None if it is unknown or has expired.

        The time it takes tells nothing about the keys: every one is compared, each in constant time.
        """
        self._renew()
        if len(presented) > _MAX_PRESENTED:
            return None
        digest = _digest(presented)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return None if found is None or (found.expires is not None and found.expires <= time.time()) else found

    def _renew(self) -> None:
        now = time.monotonic()
        if now - self._looked < _POLL_S:
            return
        self._looked = now
        mark = _mark(self._path)
        if mark == self._seen:
            return
        self._seen = mark
        try:
            self._keys = read_keys(self._path)
        except ConfigError as error:
            # A file that is being restored must not lock everybody out; nor may it let anybody in.
            _log.error("The keys stay as they were: %s", error.args[0])


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def check_exposure(host: str, keys: str | os.PathLike[str] | None) -> None:
    """Refuse to be reached from elsewhere without keys.

    Raises:
        ConfigError: Keys are off, and the address is not loopback.
    """
    if keys is None and not is_loopback(host):
        raise ConfigError(
            f"The host is {host!r} without API keys; only loopback is allowed then, such as 127.0.0.1.",
            "Make keys (rayft keys create keys.json NAME) and give them: --keys keys.json.",
        )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep others from writing the same file; the lock is on its folder, as the file itself is replaced."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"Cannot write {path}: {error.strerror}.", "Choose another file.") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, keys: Sequence[Key]) -> None:
    """Replace the file whole, readable by its owner alone."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    text = json.dumps({"format": _FORMAT, "keys": [asdict(key) for key in keys]}, indent=1)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text + "\n")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"Cannot write {path}: {error.strerror}.", "Choose another file.") from None
