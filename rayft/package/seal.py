"""The seal of a package: which files it holds, and the digest of each."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from rayft.errors import PackageError
from rayft.package.model_file import MODEL_FILE, check_model_file
from rayft.package.record import RECORD_FILE

MANIFEST_FILE = "MANIFEST.sha256"
GOLDEN_FILE = "golden.arrow"
CARD_FILE = "MODEL_CARD.md"
# Nothing else may lie in a package, whatever its manifest lists.
SEALED_FILES = (CARD_FILE, GOLDEN_FILE, MODEL_FILE, RECORD_FILE)

_ANEW = "Copy or write the package anew."
_MAX_MANIFEST_BYTES = 1 << 16
_HEAD = "# sha256 of the lines below: "
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


def seal(folder: Path) -> None:
    """Write the manifest over the files of a package; ``sha256sum -c`` reads it too."""
    lines = "".join(f"{file_digest(folder / name)}  {name}\n" for name in SEALED_FILES)
    head = f"{_HEAD}{hashlib.sha256(lines.encode()).hexdigest()}\n"
    (folder / MANIFEST_FILE).write_bytes((head + lines).encode())


def check_seal(folder: Path) -> str:
    """Check a local package: the files, their digests, and that the model file carries no code.

    Returns:
        The sha256 of the manifest, which identifies the package's whole content.

    Raises:
        PackageError: Names the first file that is missing, foreign or changed.
    """
    _check_names(folder)
    expected, identity = _read_manifest(folder / MANIFEST_FILE)
    for name in SEALED_FILES:
        path = folder / name
        found = file_digest(path)
        if found != expected[name]:
            raise PackageError(f"{path} was changed: its sha256 is {found}, not {expected[name]}.", _ANEW)
    check_model_file(folder / MODEL_FILE)
    return identity


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's content."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            total.update(chunk)
    return total.hexdigest()


def _check_names(folder: Path) -> None:
    if not folder.is_dir():
        raise PackageError(f"{str(folder)!r} is no package: it is not a folder.", "Give the folder of a package.")
    found = {path.name: path for path in sorted(folder.iterdir())}
    if RECORD_FILE not in found:
        raise PackageError(
            f"{str(folder)!r} is no package: it lacks {RECORD_FILE}.",
            "Give the folder of a package, or of a finished run.",
        )
    for name, path in found.items():
        if name not in (*SEALED_FILES, MANIFEST_FILE):
            raise PackageError(
                f"{path} does not belong into a package; only {', '.join(SEALED_FILES)} and {MANIFEST_FILE} do.",
                "Remove it if you know where it comes from; otherwise copy the package anew.",
            )
        if path.is_symlink() or not path.is_file():
            raise PackageError(f"{path} is a link or a folder, not a plain file.", _ANEW)
    for name in (*SEALED_FILES, MANIFEST_FILE):
        if name not in found:
            raise PackageError(f"The package lacks {folder / name}.", _ANEW)


def _read_manifest(path: Path) -> tuple[dict[str, str], str]:
    content = path.read_bytes() if path.stat().st_size <= _MAX_MANIFEST_BYTES else b""
    head, _, lines = content.partition(b"\n")
    if head != f"{_HEAD}{hashlib.sha256(lines).hexdigest()}".encode():
        raise PackageError(f"{path} was changed: its first line does not match the others.", _ANEW)
    matches = [_LINE.fullmatch(line) for line in lines.decode("utf-8", "replace").splitlines()]
    listed = {match[2]: match[1] for match in matches if match}
    if None in matches or len(matches) != len(listed) or set(listed) != set(SEALED_FILES):
        raise PackageError(f"{path} does not list just {', '.join(SEALED_FILES)}.", _ANEW)
    return listed, hashlib.sha256(content).hexdigest()
