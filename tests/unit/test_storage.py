import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import fs

from rayft.errors import StorageError
from rayft.storage import Storage


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_file_reads_back_as_it_was_written_and_leaves_no_temporary_file(tmp_path):
    file = Storage.open(tmp_path) / "runs" / "a" / "config.yaml"
    file.write_bytes(b"one")
    file.write_bytes(b"two")
    assert file.read_bytes() == b"two"
    assert tree(tmp_path) == {"runs", "runs/a", "runs/a/config.yaml"}


def test_a_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    file = Storage.open(tmp_path) / "state"
    file.write_bytes(b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        file.write_bytes(b"new")
    assert file.read_bytes() == b"old"
    assert tree(tmp_path) == {"state"}


def test_relative_paths_are_fixed_when_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = Storage.open("here")
    monkeypatch.chdir("/")
    assert storage.uri == str(tmp_path / "here")
    assert (storage / "x" / "y").root == str(tmp_path / "here/x/y")


def test_a_file_uri_is_the_same_place_as_its_path(tmp_path):
    (Storage.open(tmp_path) / "a").write_bytes(b"1")
    storage = Storage.open(f"file://{tmp_path}")
    assert storage.is_local
    assert storage.list() == ["a"]
    assert storage.uri == str(tmp_path)


def test_the_options_of_a_uri_stay_at_its_end():
    bucket = Storage.open("s3://bucket/a?endpoint_override=127.0.0.1:9&scheme=http&region=x")
    place = bucket / "runs" / "b"
    assert place.uri == "s3://bucket/a/runs/b?endpoint_override=127.0.0.1:9&scheme=http&region=x"
    assert Storage.open(place.uri).root == place.root == "bucket/a/runs/b"


def test_storage_pickles(tmp_path):
    (Storage.open(tmp_path) / "a").write_bytes(b"1")
    assert (pickle.loads(pickle.dumps(Storage.open(tmp_path))) / "a").read_bytes() == b"1"


def test_list_and_delete_cover_files_and_trees(tmp_path):
    storage = Storage.open(tmp_path)
    (storage / "b" / "c").write_bytes(b"1")
    (storage / "a").write_bytes(b"1")
    assert storage.list() == ["a", "b"]
    (storage / "b").delete()
    (storage / "a").delete()
    (storage / "never").delete()
    assert storage.list() == []


def test_a_folder_that_comes_while_it_is_listed_is_no_error(tmp_path):
    folder = Storage.open(tmp_path / "log")
    script = "import os, sys\nwhile True:\n    os.mkdir(sys.argv[1])\n    os.rmdir(sys.argv[1])"
    other = subprocess.Popen([sys.executable, "-c", script, folder.root])
    try:
        while not folder.exists():
            assert other.poll() is None
        # Without care, one look in a hundred fails where the other process has a core of its own.
        assert not any(folder.list(missing_ok=True) for _ in range(20_000))
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("place", ["local", "object store"])
def test_a_folder_survives_upload_and_download(tmp_path, place):
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "a").write_bytes(b"1")
    (source / "inner" / "b").write_bytes(b"2")
    if place == "local":
        remote = Storage.open(tmp_path / "remote")
    else:
        (tmp_path / "bucket").mkdir()
        # Any filesystem that is not LocalFileSystem takes the way of object stores.
        remote = Storage(fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem()), "run", "bucket://run")
        assert not remote.is_local
    remote.upload_folder(source)
    remote.download_folder(tmp_path / "back")
    assert {path: (tmp_path / "back" / path).read_bytes() for path in ("a", "inner/b")} == {"a": b"1", "inner/b": b"2"}
    assert tree(tmp_path / "back") == {"a", "inner", "inner/b"}
    assert (remote / "inner" / "b").read_bytes() == b"2"


def test_check_writable_leaves_nothing_behind(tmp_path):
    Storage.open(tmp_path / "new" / "deep").check_writable()
    assert tree(tmp_path) == set()


def test_check_writable_names_path_and_reason_where_a_file_is_in_the_way(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"file/runs/.*: a part of the path is a file"):
        (Storage.open(tmp_path) / "file" / "runs").check_writable()


def test_check_writable_refuses_a_folder_without_permission(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)  # Root may write anywhere.
    try:
        with pytest.raises(StorageError, match="no permission"):
            Storage.open(folder).check_writable()
    finally:
        if is_root:
            os.seteuid(0)
    assert tree(folder) == set()


@pytest.mark.parametrize(
    ("place", "message"),
    [("nosuch://bucket/x", "Cannot use the storage 'nosuch://bucket/x'"), ("/nonexistent/x", "it does not exist")],
)
def test_errors_name_place_and_remedy(place, message):
    with pytest.raises(StorageError, match=message) as caught:
        Storage.open(place).read_bytes()
    assert "fix:" in str(caught.value)
