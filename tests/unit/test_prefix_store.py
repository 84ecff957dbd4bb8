import json
import multiprocessing
import os
import resource
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import fs

from rayft.cli import main
from rayft.config import load_config
from rayft.errors import ConfigError, StorageError
from rayft.prefix.evict import list_caches, prune_caches
from rayft.prefix.recipe import BATCH_ROWS, Recipe, digest_rows, shard_rows
from rayft.prefix.shards import ShardWriter
from rayft.prefix.store import CacheFolder, Entry
from rayft.storage import Storage

ROWS = np.arange(0, 1120, 2)
SHAPE = (3, 2, 5)


def recipe_of(rows=ROWS, **changes):
    fixed = {
        "prefix": "weights",
        "cut": "block1",
        "preprocessing": {"image_size": [8, 8]},
        "shape": SHAPE,
        "dtype": "float32",
        "dataset": "pictures",
        "rows": digest_rows(rows),
        "num_rows": len(rows),
        "view": None,
        "precision": "float32",
        "engine": "tensorflow",
    }
    return Recipe(**{**fixed, **changes})


def values_of(rows=ROWS, seed=0):
    return np.random.default_rng(seed).normal(size=(len(rows), *SHAPE)).astype("float32")


def write_shard(entry, number, values, rows=ROWS):
    size = shard_rows(len(rows))
    writer = ShardWriter(entry.local, entry.recipe, number)
    for start in range(number * size, min((number + 1) * size, len(rows)), BATCH_ROWS):
        end = min(start + BATCH_ROWS, (number + 1) * size)
        writer.add(rows[start:end], values[start:end])
    path = writer.finish()
    entry.publish(path)
    return path


def build(folder, values=None, **changes):
    entry = Entry(folder, recipe_of(**changes))
    entry.lease().release()
    for number in range(entry.recipe.num_shards):
        write_shard(entry, number, values_of() if values is None else values)
    entry.commit()
    return entry


@pytest.fixture
def folder(tmp_path):
    return CacheFolder.of(str(tmp_path))


@pytest.fixture
def remote(tmp_path):
    """An object store, as far as rayft can tell, and this node's folder for copies."""
    (tmp_path / "bucket").mkdir()
    bucket = fs.SubTreeFileSystem(str(tmp_path / "bucket"), fs.LocalFileSystem())
    return CacheFolder(Storage(bucket, "cache/prefix", "mem://cache/prefix"), tmp_path / "node")


def take(entry, rows, notice=pytest.fail):
    return entry.open(ROWS, entry.check(notice)).take(rows)


def test_rows_come_back_bit_for_bit_in_the_order_asked_for(folder):
    values, entry = values_of(), build(folder)
    assert entry.recipe.num_shards == 6  # 560 rows in shards of 96; the last has two full batches and a short one.
    wanted = np.random.default_rng(1).permutation(len(ROWS))
    np.testing.assert_array_equal(take(entry, ROWS[wanted]), values[wanted])
    np.testing.assert_array_equal(take(entry, ROWS[[70, 65]]), values[[70, 65]])


def test_a_row_that_was_never_computed_is_an_error(folder):
    entry = build(folder)
    for row in (1, 10_000):
        with pytest.raises(KeyError, match="not in the cache"):
            take(entry, np.array([0, row]))


def test_bfloat16_is_stored_as_its_bits(folder):
    bits = np.arange(len(ROWS) * 30, dtype=np.uint16).reshape(len(ROWS), *SHAPE)
    entry = build(folder, bits, dtype="bfloat16")
    np.testing.assert_array_equal(take(entry, ROWS), bits)


@pytest.mark.parametrize(
    "change",
    [
        {"prefix": "others"},
        {"cut": "block2"},
        {"preprocessing": {"image_size": [9, 8]}},
        {"dtype": "bfloat16"},
        {"precision": "bfloat16"},
        {"engine": "openvino"},
        {"dataset": "others"},
        {"rows": ROWS[1:]},
        {"view": {"seed": 1, "number": 0}},
        {"format": 0},
    ],
)
def test_everything_that_enters_the_activations_changes_the_key(change):
    assert recipe_of(**change).key != recipe_of().key
    assert recipe_of().key == recipe_of().key


def test_the_division_into_shards_depends_on_the_number_of_rows_alone():
    for count in (1, 32, 33, 1067, 50_000, 1_000_000, 20_000_000):
        size = shard_rows(count)
        assert size % BATCH_ROWS == 0
        assert -(-count // size) <= 128


def test_an_unfinished_cache_is_invisible(folder):
    entry = Entry(folder, recipe_of())
    entry.lease().release()
    write_shard(entry, 0, values_of())
    assert entry.check(pytest.fail) is None
    assert [held.complete for held in list_caches(folder)] == [False]
    assert entry.missing() == [1, 2, 3, 4, 5]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(flip, "holds other bytes"), (truncate, "bytes instead of"), (Path.unlink, "is missing")],
)
def test_a_damaged_shard_is_named_and_the_others_are_kept(folder, damage, words):
    entry = build(folder)
    name = entry.check(pytest.fail)["shards"][2]["name"]
    damage(entry.local / name)
    notices = []
    assert entry.check(notices.append) is None
    (notice,) = notices
    assert str(entry.local / name) in notice
    assert words in notice
    assert entry.missing() == [2]
    write_shard(entry, 2, values_of())
    entry.commit()
    np.testing.assert_array_equal(take(entry, ROWS), values_of())


def test_a_damaged_shard_of_an_unfinished_cache_is_not_reused(folder):
    entry = Entry(folder, recipe_of())
    entry.lease().release()
    paths = [write_shard(entry, number, values_of()) for number in (0, 1)]
    flip(paths[1])
    notices = []
    entry.check_unfinished(notices.append)
    assert entry.missing() == [1, 2, 3, 4, 5]
    assert len(notices) == 1


def test_digests_are_read_once_a_file(folder, monkeypatch):
    entry = build(folder)
    entry._stamp_file.unlink()
    read = []
    monkeypatch.setattr("rayft.prefix.store.digest_file", lambda path: read.append(path) or path.name[6:38])
    assert entry.check(pytest.fail)
    assert len(read) == 6
    assert entry.check(pytest.fail)
    assert len(read) == 6


def test_a_remote_cache_is_copied_to_the_node_once_and_mended_from_there(remote, tmp_path):
    values, entry = values_of(), build(remote)
    other = Entry(CacheFolder(remote.shared, tmp_path / "other"), entry.recipe)
    np.testing.assert_array_equal(take(other, ROWS), values)
    name = other.check(pytest.fail)["shards"][1]["name"]
    flip(other.local / name)
    # The storage still has it whole, so that nothing is computed again.
    np.testing.assert_array_equal(take(other, ROWS), values)
    shared = tmp_path / "bucket" / "cache" / "prefix" / entry.recipe.key / name
    truncate(shared)
    truncate(other.local / name)
    notices = []
    assert other.check(notices.append) is None
    assert len(notices) == 1
    assert not shared.exists()


def test_of_two_builders_the_first_to_finish_counts_and_one_copy_remains(folder):
    first = build(folder)
    before = first.committed()
    # The second one began before, and its shards differ, as those of another kind of processor may.
    second = Entry(folder, first.recipe)
    for number in range(6):
        write_shard(second, number, values_of(seed=1))
    second.commit()
    assert second.committed() == before
    np.testing.assert_array_equal(take(second, ROWS), values_of())
    assert sorted(path.name for path in first.local.glob("*.arrow")) == [shard["name"] for shard in before["shards"]]


def _build_in_process(root, start):
    folder = CacheFolder.of(root)
    start.wait()
    build(folder)


def test_two_processes_that_build_one_key_at_once_both_finish(tmp_path):
    context = multiprocessing.get_context("spawn")
    start = context.Event()
    processes = [context.Process(target=_build_in_process, args=(str(tmp_path), start)) for _ in range(2)]
    for process in processes:
        process.start()
    start.set()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    entry = Entry(CacheFolder.of(str(tmp_path)), recipe_of())
    np.testing.assert_array_equal(take(entry, ROWS), values_of())
    assert len(list(entry.local.glob("*.arrow"))) == 6


def _hold_lease(root, held):
    lease = Entry(CacheFolder.of(root), recipe_of()).lease()
    held.set()
    time.sleep(60)
    lease.release()


def test_a_cache_in_use_is_not_evicted_and_a_killed_user_lets_go(folder, tmp_path):
    entry = build(folder)
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    process = context.Process(target=_hold_lease, args=(str(tmp_path), held), daemon=True)
    process.start()
    assert held.wait(60)
    assert [each.in_use for each in list_caches(folder)] == [True]
    assert prune_caches(folder, 0) == []
    assert entry.committed()
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    assert [each.key for each in prune_caches(folder, 0)] == [entry.recipe.key]
    assert not entry.local.exists()


def test_the_longest_unused_cache_goes_first(folder):
    entries = [build(folder, cut=name) for name in ("old", "new", "middle")]
    for entry, age in zip(entries, (300, 100, 200), strict=True):
        os.utime(entry.local / "lease", (time.time() - age,) * 2)
    size = list_caches(folder)[0].bytes
    removed = prune_caches(folder, int(1.5 * size))
    assert [held.recipe["cut"] for held in removed] == ["old", "middle"]
    assert [held.recipe["cut"] for held in list_caches(folder)] == ["new"]


def test_a_full_disk_names_the_folder_and_leaves_no_file(folder):
    entry = Entry(folder, recipe_of())
    entry.lease().release()
    writer = ShardWriter(entry.local, entry.recipe, 0)

    def fill():
        for start in range(0, 96, BATCH_ROWS):
            writer.add(ROWS[start : start + BATCH_ROWS], values_of()[start : start + BATCH_ROWS])
        writer.finish()

    # A shard has 96 rows of 120 bytes; the limit for a file takes the place of a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(StorageError, match="File too large") as error:
            fill()
        writer.abandon()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert str(entry.local) in str(error.value)
    assert [path.name for path in entry.local.iterdir()] == ["lease"]


def test_a_commit_of_another_key_or_damaged_text_is_no_commit(folder):
    entry = build(folder)
    where = entry.local / "complete.json"
    content = json.loads(where.read_bytes())
    where.write_text(json.dumps({**content, "key": replace(entry.recipe, cut="x").key}))
    assert entry.check(pytest.fail) is None
    where.write_text("{")
    assert entry.check(pytest.fail) is None


def test_the_command_lists_and_prunes(folder, tmp_path, capsys):
    entry = build(folder)
    assert main(["cache", "list", "--storage", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert entry.recipe.key in text
    assert "560 rows of [3, 2, 5] float32 at block1" in text
    assert main(["cache", "prune", "--storage", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [held["key"] for held in answer["removed"]] == [entry.recipe.key]
    assert answer["bytes_left"] == 0
    assert main(["cache", "list", "--storage", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["caches"] == []


def test_one_word_stands_for_the_mode_also_beside_an_override(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {source: x}\nprefix_cache: on\n")
    assert load_config(path).prefix_cache.mode == "on"
    both = load_config(path, ("prefix_cache.dtype=bfloat16",)).prefix_cache
    assert (both.mode, both.dtype) == ("on", "bfloat16")
    assert load_config(path, ("prefix_cache=off",)).prefix_cache.mode == "off"
    with pytest.raises(ConfigError, match=r'prefix_cache\.mode: got "maybe"; allowed: auto, on, off'):
        load_config(path, ("prefix_cache=maybe",))
