"""Secrets: passwords that stand where they would be written down, and the token of Ray's clusters."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from rayft.errors import ClusterError

# user:password@ of an address, the form in which pyarrow takes S3's keys; or an option of it, as for Azure's.
_PASSWORD = re.compile(
    r"(?P<before>://[^/?#\s:@]*:)[^/?#\s@]+(?P<after>@)"
    r"|(?P<option>[?&](?:\w+_)?(?:password|secret|secret_key|account_key|token|sig)=)[^&#\s\"']+",
    re.IGNORECASE,
)
ADVICE = (
    "Leave it out of the address: storage takes it from the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, ...) or from its own files, such as ~/.aws/credentials."
)


def has_password(text: str) -> bool:
    """Whether an address in the text carries a password, as ``s3://key:secret@bucket`` does."""
    return _PASSWORD.search(text) is not None


def without_password(text: str) -> str:
    """Return the text for people, with stars for the password of an address."""
    return _PASSWORD.sub(lambda match: f"{match['before'] or match['option']}***{match['after'] or ''}", text)


def token_required() -> bool:
    """Whether Ray's token authentication is on in this process, as it is unless RAY_AUTH_MODE says otherwise."""
    return os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"


def find_token() -> tuple[str, str] | None:
    """Return the token of this process and where it comes from, in Ray's own order; None where there is none.

    A file of it that others could read is closed to them, where it is ours.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH names a file that cannot be read, upon which Ray would abort the process.
    """
    if text := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return text, "RAY_AUTH_TOKEN"
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else token_file()
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        if named:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ClusterError(
                f"RAY_AUTH_TOKEN_PATH is {named!r}: {reason}.", "Name the file that holds the cluster's token."
            ) from None
        return None
    _close_to_others(path)
    return (text, str(path)) if text else None


def ensure_token() -> None:
    """Make a token for clusters that this machine starts, where there is none; its file is the owner's alone.

    Ray would make one itself, and leave it readable to every user of the machine.

    Raises:
        ClusterError: It cannot be written.
    """
    if not token_required() or find_token() is not None:
        return
    path = token_file()
    # Whole at once: another process that starts now must not read half of it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        # The first of two that do this at once wins, and the other takes its token.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        temporary.unlink()
    except OSError as error:
        raise ClusterError(
            f"Cannot write the token of Ray's clusters to {path}: {error.strerror}.",
            "Set HOME to a folder that can be written, or give a token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH.",
        ) from None
    if find_token() is None:
        raise ClusterError(f"{path} is there, and no token can be read from it.", "Mend or remove it.")


def token_file() -> Path:
    """Where Ray looks for the token by default."""
    return Path(os.environ.get("HOME", "~")).expanduser() / ".ray" / "auth_token"


def _close_to_others(path: Path) -> None:
    # Another user's file, or one on a read-only disk, is not ours to change.
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        if mode & 0o077 and path.stat().st_uid == os.geteuid():
            path.chmod(mode & 0o700)
