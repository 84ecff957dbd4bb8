import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from rayft.data import cache as module
from rayft.data.cache import ABANDONED_AFTER_S, LocalCache
from rayft.errors import StorageError


@dataclass
class RemoteFile:
    """A file that counts how often it is read."""

    uri: str
    content: bytes
    reads: list = field(default_factory=list)
    is_local: bool = False

    def read_bytes(self) -> bytes:
        self.reads.append(1)
        return self.content

    def download(self, local) -> None:
        local.write_bytes(self.read_bytes())


def copies(cache: LocalCache) -> list[int]:
    return [path.stat().st_size for path in cache.folder.glob("files/??/*")]


def age(cache: LocalCache, seconds: float) -> None:
    for path in cache.folder.glob("files/??/*"):
        stat = path.stat()
        os.utime(path, (stat.st_atime, stat.st_mtime - seconds))


def test_a_file_is_fetched_once_for_each_state(tmp_path):
    cache, file = LocalCache(tmp_path, 100), RemoteFile("s3://b/a", b"abc")
    assert [cache.read(file, "1"), cache.read(file, "1")] == [b"abc", b"abc"]
    assert len(file.reads) == 1
    cache.read(file, "2")
    assert len(file.reads) == 2


def test_the_least_recently_used_files_leave_when_the_limit_is_reached(tmp_path):
    cache = LocalCache(tmp_path, 100)
    files = [RemoteFile(f"s3://b/{n}", bytes(30)) for n in range(4)]
    for file in files[:3]:
        cache.read(file, "")
        age(cache, module.TOUCH_AFTER_S + 10)
    cache.read(files[0], "")
    cache.read(files[3], "")
    assert sum(copies(cache)) <= 100
    cache.read(files[0], "")
    cache.read(files[1], "")
    assert [len(file.reads) for file in files] == [1, 2, 1, 1]


def test_a_file_larger_than_the_limit_is_not_kept(tmp_path):
    cache, file = LocalCache(tmp_path, 10), RemoteFile("s3://b/a", bytes(11))
    assert cache.read(file, "") == bytes(11)
    with cache.local_copy(file, "") as path:
        assert path.read_bytes() == bytes(11)
    assert copies(cache) == []
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_failed_download_leaves_nothing(tmp_path):
    class Broken(RemoteFile):
        def download(self, local):
            local.write_bytes(self.content[:1])
            raise StorageError("lost", "try again")

    cache = LocalCache(tmp_path, 100)
    with pytest.raises(StorageError, match="lost"), cache.local_copy(Broken("s3://b/a", b"abc"), ""):
        pass
    assert [path.name for path in tmp_path.iterdir()] == []


def test_a_local_copy_outlives_its_eviction(tmp_path):
    cache = LocalCache(tmp_path, 40)
    file = RemoteFile("s3://b/a", bytes(30))
    cache.read(file, "")
    with cache.local_copy(file, "") as path:
        cache.read(RemoteFile("s3://b/b", bytes(30)), "")
        assert sum(copies(cache)) == 30
        assert path.read_bytes() == bytes(30)
    assert len(file.reads) == 1
    assert not list(tmp_path.glob(".*.tmp"))


def test_temporary_files_of_dead_processes_are_removed_at_an_eviction(tmp_path):
    cache = LocalCache(tmp_path, 10)
    abandoned, fresh = tmp_path / ".old.tmp", tmp_path / ".new.tmp"
    for path in (abandoned, fresh):
        path.write_bytes(b"x")
    past = time.time() - ABANDONED_AFTER_S - 1
    os.utime(abandoned, (past, past))
    cache.read(RemoteFile("s3://b/a", bytes(5)), "")
    assert not abandoned.exists()
    assert fresh.exists()


def _fill(folder, first, done) -> None:
    cache = LocalCache(folder, 1000)
    for number in range(first, first + 60):
        # Some of the files are fetched by both processes.
        content = bytes([number % 45]) * 90
        assert cache.read(RemoteFile(f"s3://b/{number % 45}", content), "") == content
        total = 0
        for path in folder.glob("files/??/*"):
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                continue
            # No part of a file is ever visible.
            assert size == 90
            total += size
    done.put(first)


def test_processes_and_threads_share_one_bound(tmp_path):
    context = multiprocessing.get_context("fork")
    done = context.Queue()
    processes = [context.Process(target=_fill, args=(tmp_path, first, done)) for first in (0, 15)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    cache = LocalCache(tmp_path, 1000)
    files = [RemoteFile(f"s3://c/{n}", bytes(50)) for n in range(100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda file: cache.read(file, ""), files))
    assert sum(copies(cache)) <= 1000
    assert int((tmp_path / "total").read_text()) == sum(copies(cache))


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"Cannot write the cache .*file"):
        LocalCache(tmp_path / "file", 100).read(RemoteFile("s3://b/a", b"abc"), "")
