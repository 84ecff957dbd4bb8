import io
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_learn_step import SIDE, backbone  # noqa: F401

from rayft import cli
from rayft.capacity import workers_of_nodes
from rayft.config import ClusterConfig, parse_config
from rayft.data.dataset import open_dataset
from rayft.distributed import validate as module
from rayft.distributed.findings import Finding, Validation
from rayft.distributed.validate import validate
from rayft.errors import ClusterError, StorageError
from rayft.learn.checkpoint import dump_state
from rayft.learn.estimate import MEMORY_MARGIN, START_AND_END_S, estimate_run
from rayft.learn.loop import Plan
from rayft.learn.phased import Phased
from rayft.learn.probe import Probe, measure_run
from rayft.learn.room import check_memory, check_room
from rayft.model.network import build_network
from rayft.model.phases import Phase
from rayft.storage import Storage

PROBE = Probe(
    step_s={4: 0.25, 0: 1.25},
    evaluation_s=0.5,
    start_s=7.0,
    gradient_bytes=400,
    checkpoint_bytes=1_000,
    weight_bytes=300,
    peak_bytes=2_000,
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draws = np.random.default_rng(0)
    for label, number in itertools.product(("cat", "dog"), range(20)):
        (folder / label).mkdir(exist_ok=True)
        pixels = draws.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


@pytest.fixture
def make(backbone, pictures, tmp_path):  # noqa: F811
    def make_config(**changes):
        tree = {
            "storage": str(tmp_path / "storage"),
            "data": {
                "source": str(pictures),
                "cache_folder": str(pictures.parent / "cache"),
                "global_batch_size": 8,
            },
            "model": {"backbone": backbone, "dropout": 0},
            "freeze": {"depth": 1},
            "train": {"epochs": 3},
            "prefix_cache": {"mode": "off"},
        }
        for name, values in changes.items():
            tree[name] = {**tree.get(name, {}), **values} if isinstance(values, dict) else values
        return parse_config(tree)

    return make_config


def failed(validation):
    return {each.check: f"{each.finding} | {each.fix}" for each in validation.findings if each.verdict == "failed"}


def test_a_config_that_will_run_passes_with_an_estimate_and_leaves_nothing(make, tmp_path):
    config = make(freeze={"depth": "all"}, prefix_cache={"mode": "on"})
    validation = validate(config)
    assert failed(validation) == {}
    assert not (tmp_path / "storage").exists()
    found = {each.check: each.finding for each in validation.findings}
    assert found["prefix cache"].startswith("used: prefix_cache.mode is on")
    assert found["data"].startswith("34 train, 6 validation; 2 classes")
    estimate = validation.estimate
    assert estimate.prefix_s > 0
    assert estimate.total_s > START_AND_END_S
    # 40 pictures of 4 pooled float32 each.
    checkpoints = (config.train.keep_checkpoints + 2) * estimate.checkpoint_bytes
    assert estimate.disk_bytes - checkpoints >= 40 * 4 * 4


def test_an_unknown_backbone_fails_and_the_rest_is_still_checked(make):
    validation = validate(make(model={"backbone": "resnet51"}, data={"image_size": SIDE}))
    assert list(failed(validation)) == ["network"]
    assert "resnet51" in failed(validation)["network"]
    assert {"data", "cluster", "storage"} <= {each.check for each in validation.findings if each.verdict == "ok"}
    assert validation.estimate is None


def test_more_cpus_than_there_are_fail_with_both_figures(make):
    # A network that cannot be built saves the test the measurement.
    found = failed(validate(make(cluster={"cpus_per_worker": 999}, freeze={"depth": 3})))
    assert list(found) == ["cluster", "network"]
    assert f"needs 999 CPU; the cluster has {len(os.sched_getaffinity(0))}" in found["cluster"]


def test_a_storage_that_cannot_be_written_fails(make, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        # Permissions do not stop root.
        folder.rmdir()
        folder.write_text("a file")
    validation = validate(make(storage=str(folder), prefix_cache={"mode": "on"}))
    assert list(failed(validation)) == ["storage"]
    assert str(folder) in failed(validation)["storage"]
    # What is not about the storage is measured nevertheless.
    assert validation.estimate is not None


def test_bad_data_and_a_wrong_depth_are_reported_together(make, pictures, tmp_path):
    source = tmp_path / "data"
    for path in pictures.glob("*/*.png"):
        (source / path.parent.name).mkdir(parents=True, exist_ok=True)
        os.link(path, source / path.parent.name / path.name)
    (source / "cat" / "torn.png").write_bytes(b"no picture")
    validation = validate(make(data={"source": str(source)}, freeze={"depth": 40}, optim={"name": "adan"}))
    found = failed(validation)
    assert list(found) == ["optimizer", "data", "network"]
    assert "torn.png" in found["data"]
    assert "freeze.depth is 40; the backbone has 2 blocks" in found["network"]


def test_code_of_ones_own_is_found_or_named(make):
    changes = {"train": {"step": "own_steps:nothing_of_that_name"}, "track": {"hook": "no_such_module:hear"}}
    found = failed(validate(make(**changes, model={"backbone": "resnet51"}, data={"image_size": SIDE})))
    assert "has no 'nothing_of_that_name'" in found["own code"]
    assert "no_such_module" in found["tracking"]


def test_a_step_of_ones_own_that_breaks_is_named_with_its_line(make, tmp_path, monkeypatch):
    (tmp_path / "breaking.py").write_text("def step(task, batch):\n    return batch['image'] + 'text'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = failed(validate(make(train={"step": "breaking:step"})))
    assert list(found) == ["training"]
    assert "breaking.py, line 2" in found["training"]


def test_a_batch_far_too_large_is_found_before_it_is_tried(make, monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda: -(2**40))
    monkeypatch.setattr(module, "measure_run", lambda *arguments, **options: pytest.fail("it was tried"))
    found = failed(validate(make()))
    assert list(found) == ["memory"]
    assert "Not even one example fits" in found["memory"]


def test_another_run_of_that_name_is_found(make, tmp_path):
    folder = tmp_path / "storage" / "runs" / "finetune"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("data: {source: elsewhere}\n")
    assert "has another config" in failed(validate(make(freeze={"depth": 3})))["storage"]


def test_the_probe_divides_by_its_steps_and_knows_the_size_of_a_checkpoint(make):
    config = make(optim={"name": "adam"})
    dataset, ticks = open_dataset(config), itertools.count()
    # Every timed call takes a second: trace, 3 warm steps, then as many as two seconds hold, 6; evaluation likewise.
    probe = measure_run(config, dataset, build_network(config, 2), clock=lambda: float(next(ticks)))
    assert probe.step_s == {1: pytest.approx(1 / 6)}
    assert probe.evaluation_s == pytest.approx(1 / 3)
    assert probe.start_s == 2
    phased = Phased(config, build_network(config, 2), Plan(5, 3), module.tf.distribute.get_strategy())
    with np.load(io.BytesIO(dump_state(phased.task))) as arrays:
        assert probe.checkpoint_bytes == sum(arrays[name].nbytes for name in arrays.files)
    assert probe.gradient_bytes == 4 * phased.task.updater.size


def test_both_ends_of_a_run_in_phases_are_measured(make):
    config = make(freeze={"depth": 0, "head_first_epochs": 1})
    probe = measure_run(config, open_dataset(config), build_network(config, 2))
    assert list(probe.step_s) == [2, 0]


def test_the_estimate_is_steps_times_their_measured_time():
    config = parse_config(
        {
            "data": {"source": "x", "global_batch_size": 10},
            "train": {"epochs": 10, "keep_checkpoints": 3},
            "freeze": {"depth": 0, "gradual": 2},
            "cluster": {"workers": 2},
        }
    )
    phases = [Phase(0, 4, "auto", 1.0), Phase(2, 3, "auto", 1.0), Phase(6, 0, "auto", 1.0)]
    sizes = {"train": 95, "validation": 31, "test": 8}
    estimate = estimate_run(config, PROBE, phases, sizes, prefix_s=3.0, prefix_bytes=70)
    # 10 steps an epoch; depth 3 lies a quarter of the way from 4 to 0: 0.5 s a step.
    stepping = 10 * (2 * 0.25 + 4 * 0.5 + 4 * 1.25)
    # Each worker answers 16 of 31 pictures in batches of 5: 4 batches; 4 of 8: 1 batch.
    validation, test = 4 * 0.5, 1 * 0.5
    assert estimate.training_s == pytest.approx(stepping + 10 * validation)
    assert estimate.epoch_s == pytest.approx(stepping / 10 + validation)
    assert estimate.step_s == pytest.approx(stepping / 100)
    assert estimate.start_s == START_AND_END_S + 7
    assert estimate.total_s == pytest.approx(START_AND_END_S + 7 + 3 + stepping + 11 * validation + test)
    assert estimate.disk_bytes == 5 * 1_000 + 300 + 70
    assert estimate.worker_bytes == int(2_000 * MEMORY_MARGIN)
    assert "exchange 400 bytes" in estimate.in_words()


def test_a_range_test_takes_its_steps_besides():
    tree = {"data": {"source": "x", "global_batch_size": 10}, "train": {"epochs": 4}}
    phases, sizes = [Phase(0, 4, "auto", 1.0)], {"train": 100, "validation": 0, "test": 0}
    given = estimate_run(parse_config(tree), PROBE, phases, sizes)
    auto = estimate_run(parse_config({**tree, "optim": {"learning_rate": "auto"}}), PROBE, phases, sizes)
    assert auto.start_s - given.start_s == pytest.approx(40 * 0.25)
    assert given.exchanged_bytes == 0


def test_workers_lie_whole_on_nodes_and_the_roomiest_fill_first():
    nodes = [{"CPU": 1.0}, {"CPU": 5.0}, {"CPU": 3.0}]
    assert workers_of_nodes(ClusterConfig(workers=3, cpus_per_worker=2), nodes) == [2, 1, 0]
    # 9 CPUs would be enough for 4 such workers, were they not on nodes.
    assert sum(workers_of_nodes(ClusterConfig(workers=4, cpus_per_worker=2), nodes)) == 3
    assert workers_of_nodes(ClusterConfig(workers=1, cpus_per_worker=1), nodes) == [1, 0, 0]
    assert workers_of_nodes(ClusterConfig(workers=3, cpus_per_worker=1 / 3), [{"CPU": 1.0}]) == [3]
    assert workers_of_nodes(ClusterConfig(gpus_per_worker=1), nodes) == [0, 0, 0]


def test_memory_and_disk_fail_one_byte_too_small(tmp_path, monkeypatch):
    assert "2 x 500 bytes" in check_memory(500, 2, 1_000)
    with pytest.raises(ClusterError, match=r"2 x 500 bytes") as error:
        check_memory(500, 2, 999)
    assert error.value.args[1].startswith("Set cluster.workers to 1")
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1_000}))
    assert "1.0 kB left" in check_room(Storage.open(tmp_path / "not" / "yet"), 1_000)
    with pytest.raises(StorageError, match="the run writes"):
        check_room(Storage.open(tmp_path), 1_001)


def test_every_line_of_the_table_has_verdict_and_remedy():
    findings = (Finding("data", "failed", "first\nsecond", "Mend it."), Finding("own code", "ok", "word " * 40))
    validation = Validation(findings, None)
    assert not validation.passed
    lines = validation.table().splitlines()
    assert lines[:3] == ["failed   data      first", " " * 19 + "second", " " * 19 + "fix: Mend it."]
    assert lines[3].startswith("ok       own code  word word")
    assert max(map(len, lines)) <= 110


def test_the_command_exits_with_2_and_names_every_wrong_field(tmp_path, capsys):
    path = Path(tmp_path) / "config.yaml"
    path.write_text("data: {source: x}\ntrain: {epochs: 0, metric: luck}\n")
    assert cli.main(["validate", str(path), "--json"]) == 2
    shown = json.loads(capsys.readouterr().out)
    assert (shown["passed"], shown["estimate"]) == (False, None)
    assert {"train.epochs", "train.metric"} == {
        line.split(":")[0] for line in shown["findings"][0]["finding"].splitlines()
    }
