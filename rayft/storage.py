"""A folder on a local disk or an object store, behind one small interface."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from pyarrow import fs

from rayft.busy import persist
from rayft.credentials import ADVICE, has_password, without_password
from rayft.errors import StorageError
from rayft.storage_words import first_line, reason, remedy

T = TypeVar("T")


@dataclass(frozen=True)
class Storage:
    """A path on a pyarrow filesystem. Pickles, so it can travel to other processes.

    Attributes:
        filesystem: The pyarrow filesystem.
        root: The path on that filesystem.
        uri: The same place as a person would write it; for messages.
    """

    filesystem: fs.FileSystem
    root: str
    uri: str

    @classmethod
    def open(cls, place: str | os.PathLike[str]) -> Storage:
        """Return the storage at a local path or a pyarrow filesystem URI; touches nothing.

        Raises:
            StorageError: The URI's scheme is unknown, or its service cannot be reached.
        """
        text = os.fspath(place)
        if "://" not in text:
            path = os.path.abspath(os.path.expanduser(text))
            return cls(fs.LocalFileSystem(), path, path)
        if has_password(text):
            raise StorageError(f"The address {without_password(text)!r} holds a password.", ADVICE)
        try:
            filesystem, root = fs.FileSystem.from_uri(_with_single_puts(text))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
            raise StorageError(
                f"Cannot use the storage {text!r}: {first_line(error)}.",
                "Give a local path, or a URI that pyarrow knows: file://, s3://, gs://, abfs://, hdfs://.",
            ) from None
        except OSError as error:
            raise StorageError(
                f"Cannot reach the storage {text!r}: {first_line(error)}.", "Check the network and the credentials."
            ) from None
        root = root.rstrip("/") or "/"
        return cls(filesystem, root, root if isinstance(filesystem, fs.LocalFileSystem) else text.rstrip("/"))

    def __truediv__(self, name: str) -> Storage:
        part = str(name).strip("/")
        # A URI may end in options: s3://bucket/folder?endpoint_override=...
        place, mark, options = self.uri.partition("?")
        return Storage(self.filesystem, f"{self.root.rstrip('/')}/{part}", f"{place.rstrip('/')}/{part}{mark}{options}")

    def __str__(self) -> str:
        return self.uri

    @property
    def is_local(self) -> bool:
        """Whether plain file operations reach it."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.root.rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> Storage:
        """The folder that holds this one."""
        place, mark, options = self.uri.partition("?")
        above = f"{place.rpartition('/')[0] or '/'}{mark}{options}"
        return Storage(self.filesystem, self.root.rpartition("/")[0] or "/", above)

    def relative(self, below: Storage | fs.FileInfo) -> str:
        """Return the path from this folder to something below it."""
        path = below.root if isinstance(below, Storage) else below.path
        return path[len(self.root.rstrip("/")) + 1 :]

    def exists(self) -> bool:
        """Tell whether a file or folder is there."""
        return self._type() != fs.FileType.NotFound

    def is_folder(self) -> bool:
        """Tell whether a folder is there."""
        return self._type() == fs.FileType.Directory

    def read_bytes(self) -> bytes:
        """Return the content of the file."""

        def read() -> bytes:
            with self.filesystem.open_input_file(self.root) as file:
                return file.read()

        return self._do("read", read)

    def write_bytes(self, content: bytes) -> None:
        """Replace the file as a whole; a reader sees the old content or the new, never a part.

        Missing parent folders are made.
        """

        def write() -> None:
            if self.is_local:
                os.makedirs(os.path.dirname(self.root), exist_ok=True)
                _replace_file(self.root, content)
            else:
                self.filesystem.create_dir(self.root.rpartition("/")[0] or "/", recursive=True)
                # A put to an object store is atomic.
                with self.filesystem.open_output_stream(self.root) as file:
                    file.write(content)

        self._do("write", write)

    def list(self, *, missing_ok: bool = False) -> list[str]:
        """Return the sorted names of the folder's files and folders; none where it may be missing and is."""
        selector = fs.FileSelector(self.root, allow_not_found=missing_ok)

        def look() -> Sequence[fs.FileInfo]:
            try:
                return self.filesystem.get_file_info(selector)
            except FileNotFoundError:
                # It was missing, but made before pyarrow looked whether it is: pyarrow then takes that for an error.
                if missing_ok:
                    return []
                raise

        return sorted(info.base_name for info in self._do("list", look))

    def walk(self) -> Sequence[fs.FileInfo]:
        """Return every file below the folder, sorted by path, with size and modification time."""
        selector = fs.FileSelector(self.root, recursive=True)
        found = self._do("list", lambda: self.filesystem.get_file_info(selector))
        return sorted((info for info in found if info.type == fs.FileType.File), key=lambda info: info.path)

    def remove_partial_files(self) -> None:
        """Remove what writers that were killed in the middle left below this folder; no other may be writing there."""
        # A put to an object store leaves nothing behind. What cannot be removed does no harm.
        with contextlib.suppress(StorageError):
            for info in self.walk() if self.is_local else ():
                if _PARTIAL.fullmatch(info.base_name):
                    (self / self.relative(info)).delete()

    def delete(self) -> None:
        """Remove the file or the whole tree; nothing happens where there is none."""

        def delete() -> None:
            kind = self.filesystem.get_file_info(self.root).type
            if kind == fs.FileType.Directory:
                self.filesystem.delete_dir(self.root)
            elif kind != fs.FileType.NotFound:
                self.filesystem.delete_file(self.root)

        self._do("delete", delete)

    def move(self, target: Storage) -> None:
        """Give this folder another place on the same filesystem, where nothing is."""
        if self.is_local:
            self._do("move", lambda: os.rename(self.root, target.root))
            return
        # Object stores copy object by object, on their side.
        self._do("move", lambda: fs.copy_files(self.root, target.root, self.filesystem, target.filesystem))
        self.delete()

    def make_folder(self) -> None:
        """Make the folder with its parents; nothing happens where it is already."""
        self._do("make the folder", lambda: self.filesystem.create_dir(self.root, recursive=True))

    def upload_folder(self, local: str | os.PathLike[str]) -> None:
        """Copy the files of a local folder into this one, each atomically, and flush them to the disk."""
        source = Path(local)
        if not source.is_dir():
            raise StorageError(f"Cannot upload {str(source)!r}: it is not a folder.", "Give a local folder.")
        self.make_folder()

        def copy() -> None:
            if not self.is_local:
                fs.copy_files(str(source.resolve()), self.root, fs.LocalFileSystem(), self.filesystem, use_threads=True)
                return
            for file in sorted(path for path in source.rglob("*") if path.is_file()):
                target = os.path.join(self.root, file.relative_to(source))
                os.makedirs(os.path.dirname(target), exist_ok=True)
                _replace_file(target, file)

        self._do("write", copy)

    def download_folder(self, local: str | os.PathLike[str]) -> None:
        """Copy the files of this folder into a local one, which is made if missing."""
        if not self.is_folder():
            raise StorageError(f"Cannot read {self.uri}: there is no such folder.", "Check the path.")
        os.makedirs(local, exist_ok=True)
        self._do("read", lambda: self._copy_to(local))

    def download(self, local: str | os.PathLike[str]) -> None:
        """Copy this file to a local path, piece by piece."""
        self._do("read", lambda: self._copy_to(local))

    def check_writable(self) -> None:
        """Write and remove a probe; leaves nothing behind, not even folders that it made.

        Raises:
            StorageError: Names the path, the reason and the remedy.
        """
        probe = self / f".rayft-probe-{uuid.uuid4().hex}"
        with self.leaving_no_folders():
            probe.write_bytes(b"probe")
            probe.delete()

    @contextlib.contextmanager
    def leaving_no_folders(self) -> Iterator[None]:
        """Remove the local folders down to this one that the block made, as far as they are empty again."""
        made = self._missing_folders() if self.is_local else []
        try:
            yield
        finally:
            for folder in made:
                # Another process may have written there meanwhile: rmdir then refuses, rightly.
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    def _missing_folders(self) -> Sequence[str]:
        """Local folders from the root upwards that do not exist yet, deepest first."""
        missing, folder = [], self.root
        while not os.path.lexists(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        return missing

    def _type(self) -> fs.FileType:
        return self._do("look at", lambda: self.filesystem.get_file_info(self.root)).type

    def _copy_to(self, local: str | os.PathLike[str]) -> None:
        fs.copy_files(self.root, os.path.abspath(local), self.filesystem, fs.LocalFileSystem(), use_threads=True)

    def _do(self, action: str, attempt: Callable[[], T]) -> T:
        """Try it for as long as the store says that it is busy; what else goes wrong is explained."""
        try:
            return persist(attempt)
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"Cannot {action} {self.uri}: {reason(error)}.", remedy(error)) from None


def _with_single_puts(uri: str) -> str:
    """Let S3 take a small file in one request, where pyarrow would begin, fill and complete an upload."""
    if not uri.startswith("s3://") or "allow_delayed_open" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


# What _replace_file writes before the target has its name.
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")


def _replace_file(target: str, content: bytes | Path) -> None:
    """Write beside the target, flush, rename over it, flush the folder."""
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".{os.path.basename(target)}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            if isinstance(content, Path):
                with open(content, "rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
