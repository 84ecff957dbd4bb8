"""What a run does to the folder of an earlier one of its name."""

import subprocess
import sys

import pytest
from s3_server import s3_bucket

from rayft.config import parse_config
from rayft.driver import claimed
from rayft.runs import RunFolder
from rayft.storage import Storage


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    if request.param == "local":
        yield str(tmp_path / "place")
        return
    with s3_bucket() as bucket:
        yield bucket.uri("place")


@pytest.fixture
def config(storage):
    return parse_config({"name": "run", "data": {"source": "x"}, "storage": storage})


@pytest.fixture
def earlier(config):
    """A run that has finished, and what lies in its folder."""
    folder = RunFolder.of(config)
    folder.begin(config, fresh=False)
    (folder.package / "model.keras").write_bytes(b"weights")
    (folder.checkpoints / "step-5" / "state.npz").write_bytes(b"state")
    return folder


def content(folder):
    return {folder.storage.relative(info): info.size for info in folder.storage.walk()}


def runs(config):
    return (Storage.open(config.storage) / "runs").list()


def test_a_run_that_starts_afresh_and_is_refused_leaves_the_earlier_one_as_it_was(earlier, config):
    before = content(earlier)
    assert set(before) == {"config.yaml", "package/model.keras", "checkpoints/step-5/state.npz"}
    earlier.begin(config, fresh=True)
    assert set(content(earlier)) == {"config.yaml"}
    # As one that is killed before it has trained, and started again.
    earlier.begin(config, fresh=True)
    earlier.withdraw()
    assert content(earlier) == before
    assert runs(config) == ["run"]


def test_a_run_that_starts_afresh_and_ends_leaves_nothing_of_the_earlier_one(earlier, config):
    earlier.begin(config, fresh=True)
    earlier.tidy()
    assert set(content(earlier)) == {"config.yaml"}
    assert runs(config) == ["run"]


def test_a_first_run_that_is_refused_leaves_no_folder(config):
    folder = RunFolder.of(config)
    folder.begin(config, fresh=True)
    folder.withdraw()
    assert not folder.storage.exists()


def test_what_a_killed_process_wrote_in_part_is_gone_when_the_run_goes_on(earlier):
    before = content(earlier)
    script = (
        "import os, sys; from rayft.storage import Storage; os.replace = lambda *names: os._exit(9)\n"
        "Storage.open(sys.argv[1]).write_bytes(b'new')"
    )
    for name in ("trials.jsonl", "checkpoints/step-5/state.npz"):
        place = earlier.storage / name
        if place.is_local:
            assert subprocess.run([sys.executable, "-c", script, place.root], check=False).returncode == 9
    assert len(content(earlier)) == len(before) + (2 if earlier.storage.is_local else 0)
    (earlier.storage / ".notes.tmp").write_bytes(b"somebody's own")
    with claimed(earlier.storage):
        assert set(content(earlier)) == {*before, ".notes.tmp", "driver.json"}
