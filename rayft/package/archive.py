"""A package in a .zip or .tar.gz file: unpacked without trust in what it says."""

from __future__ import annotations

import contextlib
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from rayft.errors import PackageError
from rayft.package.seal import MANIFEST_FILE, SEALED_FILES

SUFFIXES = (".zip", ".tar.gz", ".tgz", ".tar")
# Weights hardly shrink: a tenfold package of text would still fit.
MAX_RATIO = 50
SLACK_BYTES = 16 << 20
_CHUNK = 1 << 20
_REMEDY = "Take the archive from whom you trust, or give the folder of a package."


def is_archive(place: str) -> bool:
    """Tell by its name whether a file is an archive."""
    return place.lower().endswith(SUFFIXES)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Unpack an archive into a temporary folder, which is gone after the block.

    The files of the package lie at the top or in one folder.

    Raises:
        PackageError: Names the archive and the member that is refused: one outside the folder, a link, a
            file that belongs into no package, or more bytes than a package has.
    """
    try:
        limit = path.stat().st_size * MAX_RATIO + SLACK_BYTES
    except OSError as error:
        raise PackageError(f"Cannot read the archive {str(path)!r}: {error.strerror}.", "Check the path.") from None
    with tempfile.TemporaryDirectory(prefix="rayft-archive-") as scratch:
        try:
            if path.name.lower().endswith(".zip"):
                _unpack_zip(path, Path(scratch), limit)
            else:
                _unpack_tar(path, Path(scratch), limit)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError, RuntimeError) as error:
            reason = (str(error).splitlines() or [""])[0]
            raise PackageError(f"{path} is damaged: {type(error).__name__}: {reason}.", _REMEDY) from None
        yield Path(scratch)


def _unpack_zip(path: Path, folder: Path, limit: int) -> None:
    with zipfile.ZipFile(path) as archive:
        seen = _Seen(path, folder, limit)
        for member in archive.infolist():
            if member.is_dir() and not stat.S_ISLNK(member.external_attr >> 16):
                seen.check_path(member.filename)
                continue
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
                raise seen.refusal(member.filename, "is a link or a device")
            with archive.open(member) as content:
                seen.write(member.filename, content)


def _unpack_tar(path: Path, folder: Path, limit: int) -> None:
    # As a stream: the list of members of a bomb would itself unpack it.
    with tarfile.open(path, "r|*") as archive:
        seen = _Seen(path, folder, limit)
        for member in archive:
            seen.check_size(member.name, member.size)
            if member.isdir():
                seen.check_path(member.name)
                continue
            content = archive.extractfile(member) if member.isreg() else None
            if content is None:
                raise seen.refusal(member.name, "is a link or a device")
            seen.write(member.name, content)


class _Seen:
    """The members unpacked so far."""

    def __init__(self, archive: Path, folder: Path, limit: int) -> None:
        self._archive, self._folder, self._limit = archive, folder, limit
        self._written = 0
        self._parent: PurePosixPath | None = None

    def write(self, name: str, content: IO[bytes]) -> None:
        """Unpack one file into the folder, under its last name alone."""
        path = self.check_path(name)
        if path.name not in (*SEALED_FILES, MANIFEST_FILE):
            raise self.refusal(name, "does not belong into a package")
        if self._parent not in (None, path.parent) or len(path.parts) > 2:
            raise self.refusal(name, "lies in another folder than the files before it")
        self._parent = path.parent
        target = self._folder / path.name
        if target.exists():
            raise self.refusal(name, "is there twice")
        with target.open("wb") as file:
            while chunk := content.read(_CHUNK):
                self.check_size(name, len(chunk))
                self._written += len(chunk)
                file.write(chunk)

    def check_path(self, name: str) -> PurePosixPath:
        """Refuse names that lead out of the folder, on any system."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
            raise self.refusal(name, "leads out of the package's folder")
        return path

    def check_size(self, name: str, more: int) -> None:
        """Refuse what would pass the limit."""
        if self._written + more > self._limit:
            raise self.refusal(name, f"unpacks to over {self._limit:,} bytes (a bomb)")

    def refusal(self, name: str, problem: str) -> PackageError:
        """Return the error that names the archive and its member."""
        return PackageError(f"{self._archive} is refused: {name!r} {problem}.", _REMEDY)
