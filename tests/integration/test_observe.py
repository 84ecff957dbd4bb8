"""A real run exports the metrics of the table, logs its events, and traces the steps asked for."""

import contextlib
import json
import socket
import time
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import CONFIG, Command, make_home, result
from small_backbone import save_small_backbone
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from rayft.observe.names import CACHE, METRICS, TRAINING, scraped_name
from rayft.observe.names import SWEEP as SWEEPS

PATIENCE_S = 300
EPOCHS = 90
SWEEP = """
name: run
data: {source: data, global_batch_size: 16, image_size: 8}
model: {backbone: small.keras, hidden: [16], dropout: 0.2}
freeze: {depth: all}
train: {epochs: 40}
prefix_cache: {mode: "on"}
cluster: {workers: 1, cpus_per_worker: 1}
sweep:
  searcher: grid
  scheduler: none
  trials: 2
  space: {optim.learning_rate: {grid: [0.001, 0.01]}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scrape(port):
    """Return the samples that are ours as {name: [(labels, value)]}."""
    found = {}
    with contextlib.suppress(OSError):
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if "rayft" in sample.name:
                    found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def watch(command, port):
    """Return what was scraped until the command ended, every half second."""
    scrapes, end = [], time.monotonic() + PATIENCE_S
    try:
        while command.process.poll() is None:
            assert time.monotonic() < end, command.err
            command.look()
            scrapes.append(scrape(port))
            time.sleep(0.5)
        assert command.process.returncode == 0, command.err
    finally:
        command.clean_up()
    return scrapes


@pytest.fixture
def frequent(monkeypatch):
    # Ray tells its agents every ten seconds, which is longer than these runs.
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")


def assert_labels(seen):
    """Each sample says whose it is, with no label of ours besides those of the table."""
    ours = {label for metric in METRICS.values() for label in metric.labels}
    for name, samples in seen.items():
        metric = METRICS[name.removeprefix("ray_")]
        for labels, value in samples:
            assert labels["run"] == "run"
            assert set(metric.labels) - {"trial"} <= set(labels), name
            assert set(labels) & ours <= set(metric.labels), name
            assert value >= 0


def test_a_run_exports_the_metrics_of_the_table_and_logs_what_happens(tmp_path, frequent):
    config = CONFIG.replace("{backbone: none, weights: none, pooling: flatten,", "{backbone: small.keras,")
    config = config.replace("depth: 0", "depth: all").replace("image_size: 16", "image_size: 8")
    home = make_home(tmp_path, config.replace("epochs: 6", "epochs: 6, profile: [5, 8]"))
    save_small_backbone(home)
    port = free_port()
    settings = ("prefix_cache.mode=on", f"train.epochs={EPOCHS}", f"track.metrics_port={port}")
    command = Command.start(
        home, "train", "config.yaml", "--log-format", "json", *(word for each in settings for word in ("--set", each))
    )
    scrapes = watch(command, port)
    seen = {name: samples for each in scrapes for name, samples in each.items()}
    # What was there is not counted as found before it was computed.
    expected = {scraped_name(name) for name in TRAINING | CACHE} - {"ray_rayft_cache_hits_total"}
    assert set(seen) == expected
    assert_labels(seen)
    for name, metric in TRAINING.items():
        if "rank" in metric.labels:
            samples = [sample for each in scrapes for sample in each.get(scraped_name(name), ())]
            assert {labels["rank"] for labels, _ in samples} == {"0", "1"}
    # A gauge that is set once is not forgotten while the run goes on, as Ray's agents do after two seconds here.
    training = [each for each in scrapes if "ray_rayft_train_steps_done" in each]
    there = [each for each in training if {"ray_rayft_cache_bytes", "ray_rayft_cache_build_seconds"} <= set(each)]
    assert len(there) > 0.8 * len(training)
    assert [value for _, value in seen["ray_rayft_cache_misses_total"]] == [1]
    folder = home / "runs" / "run"
    assert [value for _, value in seen["ray_rayft_cache_bytes"]] == [result(folder)["prefix_cache"]["bytes"]]
    _assert_log(folder, command)
    for rank in (0, 1):
        (file,) = (folder / "tensorboard" / f"rank{rank}").glob("plugins/profile/*/*.xplane.pb")
        assert xplane_pb2.XSpace.FromString(file.read_bytes()).planes


@pytest.mark.full
def test_a_sweep_exports_its_standing_and_each_trial_logs_its_own_events(tmp_path, frequent):
    home = make_home(tmp_path, SWEEP)
    save_small_backbone(home)
    port = free_port()
    scrapes = watch(Command.start(home, "sweep", "config.yaml", "--set", f"track.metrics_port={port}"), port)
    seen = {name: samples for each in scrapes for name, samples in each.items()}
    # Trials of one process each need no driver of workers that counts restarts.
    expected = {scraped_name(name) for name in TRAINING | CACHE | SWEEPS} - {"ray_rayft_train_restarts"}
    assert set(seen) == expected
    assert_labels(seen)
    states = {labels["state"] for labels, _ in seen["ray_rayft_sweep_trials"]}
    assert states == {"waiting", "running", "finished", "stopped", "failed"}
    assert [value for _, value in seen["ray_rayft_sweep_trials_planned"]] == [2]
    trials = {labels["trial"] for each in scrapes for labels, _ in each.get("ray_rayft_train_steps_total", ())}
    assert {"0000", "0001"} <= trials
    # The sweep computed the cache, the trials found it.
    assert {labels.get("trial", "") for labels, _ in seen["ray_rayft_cache_misses_total"]} == {""}
    assert {"0000", "0001"} <= {labels["trial"] for labels, _ in seen["ray_rayft_cache_hits_total"]}
    folder = home / "runs" / "run"
    told = [(line["event"], line["trial"]) for line in lines_of(folder)]
    assert ("sweep_started", "") in told
    assert told[-1] == ("run_finished", "")
    for trial in ("0000", "0001"):
        assert (("trial_running", trial) in told, ("trial_finished", trial) in told) == (True, True)
        # The winner goes on in the folder of the trial that won.
        own = [line for line in lines_of(folder / "trials" / trial) if line["trial"] != "winner"]
        assert {(line["run"], line["trial"], line["rank"]) for line in own} == {("run", trial, 0)}
        assert {"worker_started", "prefix_cache", "training", "epoch", "checkpoint"} <= {line["event"] for line in own}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def _assert_log(folder, command):
    lines = lines_of(folder)
    assert {line["run"] for line in lines} == {"run"}
    events = [(line["event"], line["rank"]) for line in lines]
    assert (events[0], events[-1]) == (("run_started", None), ("run_finished", None))
    for event in ("worker_started", "training", "profile"):
        assert sorted(rank for each, rank in events if each == event) == [0, 1]
    epochs = [line["fields"] for line in lines if line["event"] == "epoch"]
    assert [each["epoch"] for each in epochs] == list(range(1, EPOCHS + 1))
    assert all(0 <= each["input_stall_seconds"] < each["step_seconds"] for each in epochs)
    on_stderr = [json.loads(line) for line in command.err.splitlines() if line.startswith('{"time"')]
    assert on_stderr == lines
