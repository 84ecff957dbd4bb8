import json
import os
import subprocess
import sys
import time

import pytest

from rayft import driver
from rayft.cli import main
from rayft.driver import CLAIM_FILE, claimed, require_free
from rayft.errors import StorageError
from rayft.storage import Storage


@pytest.fixture
def folder(tmp_path):
    storage = Storage.open(tmp_path / "runs" / "a")
    storage.make_folder()
    return storage


def write_claim(folder, **changes):
    (folder / CLAIM_FILE).delete()
    with claimed(folder):
        claim = json.loads((folder / CLAIM_FILE).read_bytes())
    (folder / CLAIM_FILE).write_bytes(json.dumps({**claim, **changes}).encode())


def test_a_folder_is_free_before_and_after_a_claim_and_nothing_is_left_of_it(folder):
    require_free(folder)
    with claimed(folder):
        assert folder.list() == [CLAIM_FILE]
    assert folder.list() == []
    require_free(folder)


def test_a_second_driver_is_refused_with_the_first_ones_process(folder):
    with claimed(folder), pytest.raises(StorageError, match=f"being written by process {os.getpid()} on"):
        require_free(folder)
    with claimed(folder), pytest.raises(StorageError), claimed(folder):
        pass


def test_the_claim_of_a_killed_process_binds_nobody(folder):
    code = (
        "import sys, os, signal; from rayft.driver import claimed; from rayft.storage import Storage\n"
        "with claimed(Storage.open(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, folder.root], check=False)
    assert folder.list() == [CLAIM_FILE]
    with claimed(folder):
        pass
    assert folder.list() == []


def test_a_process_that_got_the_number_of_a_dead_driver_is_not_taken_for_it(folder):
    write_claim(folder, started="boot 1")
    require_free(folder)


def test_a_driver_elsewhere_lives_as_long_as_it_renews_its_claim(folder):
    write_claim(folder, host="elsewhere", renewed=time.time() - driver.SILENT_S + 5)
    with pytest.raises(StorageError, match="on elsewhere, last heard of 55 s ago"):
        require_free(folder)
    write_claim(folder, host="elsewhere", renewed=time.time() - driver.SILENT_S - 5)
    require_free(folder)


def test_a_claim_is_renewed(folder, monkeypatch):
    monkeypatch.setattr(driver, "RENEW_S", 0.02)
    with claimed(folder):
        first = json.loads((folder / CLAIM_FILE).read_bytes())["renewed"]
        end = time.monotonic() + 10
        while json.loads((folder / CLAIM_FILE).read_bytes())["renewed"] == first:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"id": 1}', b"\xff"])
def test_a_claim_that_says_nothing_binds_nobody(content, folder):
    (folder / CLAIM_FILE).write_bytes(content)
    require_free(folder)


def test_of_two_that_claim_at_the_same_moment_one_gives_way(folder, monkeypatch):
    other = {"id": "other", "host": "elsewhere", "pid": 1, "started": "boot 1", "renewed": time.time()}
    write = driver._write

    def overtaken(where, claim):
        write(where, claim)
        (where / CLAIM_FILE).write_bytes(json.dumps(other).encode())

    monkeypatch.setattr(driver, "_write", overtaken)
    with pytest.raises(StorageError, match="elsewhere"), claimed(folder):
        pass
    assert json.loads((folder / CLAIM_FILE).read_bytes())["id"] == "other"


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_command_on_a_name_that_another_driver_writes_changes_nothing(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("name: a\ndata: {source: pictures}\n")
    folder = Storage.open(tmp_path / "runs" / "a")
    folder.make_folder()
    (folder / "config.yaml").write_bytes(b"kept")
    with claimed(folder):
        assert main([command, "config.yaml", "--fresh"]) == 2
        assert folder.list() == ["config.yaml", CLAIM_FILE]
    assert "is being written by process" in capsys.readouterr().err
    assert (folder / "config.yaml").read_bytes() == b"kept"
