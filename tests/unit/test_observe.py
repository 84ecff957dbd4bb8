"""Names of metrics, the log of a run, and what drivers say."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import test_sweep_conductor
from pyarrow import fs

import rayft.observe.log as log_module
from rayft import cli
from rayft.config import parse_config
from rayft.errors import ConfigError, StorageError
from rayft.observe.log import LOG_FILE, RunLog, format_line
from rayft.observe.names import METRICS, SERVING, scraped_name
from rayft.observe.sink import Events
from rayft.observe.table import metrics_table
from rayft.observe.watch import watched
from rayft.storage import Storage
from rayft.sweep.watch import SweepWatch

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
STEPS_ALLOWED = r"allowed: a list \[a whole number from 0, a whole number from 1\] or nothing\."
PORTS_ALLOWED = r"allowed: a whole number from 1024, up to 65535 or nothing\."
UNITS = {"seconds": "_seconds", "bytes": "_bytes", "examples/s": "_per_second"}


def lines_of(folder):
    return [json.loads(line) for line in (folder / LOG_FILE).read_text().splitlines()]


class Notes:
    """A sink that keeps what it hears."""

    def __init__(self):
        self.figures, self.events = {}, []

    def record(self, name, value, **labels):
        assert set(labels) <= set(METRICS[name].labels), name
        self.figures[(name, *labels.values())] = value

    def event(self, event, *, level="info", **fields):
        self.events.append((event, level, fields))


def test_names_say_kind_and_unit_as_prometheus_advises():
    for name, metric in METRICS.items():
        assert re.fullmatch(r"rayft_(train|cache|sweep|serve)_[a-z_]+", name)
        assert name.endswith("_total") == (metric.kind == "counter"), name
        if metric.unit in UNITS:
            assert UNITS[metric.unit] in name, name


def test_names_at_the_target_carry_the_prefix_of_who_exports_them():
    assert scraped_name("rayft_train_loss") == "ray_rayft_train_loss"
    assert scraped_name("rayft_serve_queue_pictures") == "rayft_serve_queue_pictures"
    assert [name for name in METRICS if not METRICS[name].through_ray] == list(SERVING)


def test_the_committed_table_is_that_of_the_names(capsys):
    # Made anew by: rayft schema --metrics --markdown
    text = PAGE.read_text()
    begin = text.index("<!-- begin: rayft schema --metrics --markdown -->\n")
    page = text[text.index("\n", begin) + 1 : text.index("<!-- end -->")]
    assert page == metrics_table()
    assert cli.main(["schema", "--metrics", "--markdown"]) == 0
    assert capsys.readouterr().out == page
    assert cli.main(["schema", "--metrics"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {about["name"] for about in printed.values()} == set(METRICS)


def test_every_event_in_the_code_stands_on_the_page():
    text, code = PAGE.read_text(), Path(__file__).parents[2] / "rayft"
    told = set()
    for path in code.rglob("*.py"):
        told |= set(re.findall(r"(?:sink|self\._sink)\.event\(\s*\"(\w+)\"", path.read_text()))
    assert len(told) > 8
    assert [event for event in told if f"`{event}`" not in text] == []


def test_a_resumed_run_goes_on_in_the_same_log(tmp_path):
    heard = []
    for number in range(2):
        log = RunLog(heard.append)
        log.begin(Storage.open(tmp_path))
        Events(log.write, run="pets", trial="0003", rank=1).event("checkpoint", step=number)
        log.close()
    lines = lines_of(tmp_path)
    assert lines == heard
    assert [line["fields"] for line in lines] == [{"step": 0}, {"step": 1}]
    assert {key: lines[0][key] for key in ("level", "run", "trial", "rank", "event")} == {
        "level": "info",
        "run": "pets",
        "trial": "0003",
        "rank": 1,
        "event": "checkpoint",
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", lines[0]["time"])


def test_a_log_on_remote_storage_is_whole_after_each_close(tmp_path):
    # A filesystem of pyarrow's that is none of this machine's, as an object store is.
    remote = Storage(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "", "bucket://")
    for number in range(2):
        log = RunLog(lambda line: None)
        log.begin(remote)
        for _ in range(3):
            Events(log.write, run="pets").event("checkpoint", step=number)
        log.close()
    assert [line["fields"]["step"] for line in lines_of(tmp_path)] == [0, 0, 0, 1, 1, 1]


def test_a_store_that_fails_for_a_while_gets_all_lines_later(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "_REWRITE_EVERY_S", 0.0)
    remote = Storage(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()), "run", "bucket://run")
    log = RunLog(lambda line: None)
    log.begin(remote)
    # In the place of a folder.
    (tmp_path / "run").write_text("")
    Events(log.write, run="pets").event("checkpoint", step=1)
    with pytest.raises(StorageError):
        log.close()
    (tmp_path / "run").unlink()
    for step in (2, 3):
        Events(log.write, run="pets").event("checkpoint", step=step)
        assert [line["fields"]["step"] for line in lines_of(tmp_path / "run")] == list(range(1, step + 1))


def test_what_is_told_before_the_folder_is_there_stands_first_in_the_file(tmp_path):
    heard = []
    log = RunLog(heard.append)
    Events(log.write, run="pets").event("phase", phase="reading the backbone")
    assert (len(heard), list(tmp_path.iterdir())) == (1, [])
    log.begin(Storage.open(tmp_path))
    Events(log.write, run="pets").event("sweep_started")
    assert [line["event"] for line in lines_of(tmp_path)] == ["phase", "sweep_started"]


def test_no_file_where_none_is_asked_for(tmp_path):
    heard = []
    log = RunLog(heard.append)
    log.begin(None)
    Events(log.write, run="pets").event("phase", phase="x")
    log.close()
    assert (len(heard), list(tmp_path.iterdir())) == (1, [])


def test_a_log_that_cannot_be_written_ends_the_run_in_words_and_its_end_in_silence(tmp_path):
    log = RunLog(lambda line: None)
    log.begin(Storage.open(tmp_path / "gone"))
    with pytest.raises(StorageError, match=r"Cannot write .*log\.jsonl: No such file"):
        Events(log.write, run="pets").event("phase", phase="x")
    log.end("pets", {"status": "failed", "error": "the disk is full"})


def test_a_line_holds_no_credentials_and_only_numbers_that_json_knows():
    line = {"fields": {"folder": "s3://AKIA:s3cr3t@bucket/x?a=b", "loss": float("nan"), "steps": [float("inf"), 1.5]}}
    assert json.loads(format_line(line)) == {
        "fields": {"folder": "s3://AKIA:***@bucket/x?a=b", "loss": None, "steps": [None, 1.5]}
    }
    assert format_line({"fields": {"mail": "a@b.org", "uri": "s3://bucket/x@y"}}).count("***") == 0


def test_the_end_of_a_run_is_told_with_what_came_out(tmp_path):
    levels = {}
    for status in ("finished", "failed", "interrupted"):
        log = RunLog(lambda line: None)
        log.begin(Storage.open(tmp_path))
        log.end("pets", {"status": status, "best": {"epoch": 2}, "config": {"secret": 1}})
        last = lines_of(tmp_path)[-1]
        assert last["fields"] == {"best": {"epoch": 2}}
        levels[last["event"]] = last["level"]
    assert levels == {"run_finished": "info", "run_failed": "error", "run_interrupted": "warning"}


def test_a_driver_tells_each_phase_notice_and_restart_once():
    notes, shown = Notes(), []
    tell = watched(notes, shown.append)
    for phase, restarts in (("starting", 0), ("starting", 0), ("training", 0), ("training", 1), ("training", 1)):
        tell({"phase": phase, "restarts": restarts, "notices": ["few pictures"]})
    assert notes.events == [
        ("phase", "info", {"phase": "starting"}),
        ("notice", "info", {"text": "few pictures"}),
        ("phase", "info", {"phase": "training"}),
        ("restart", "warning", {"restarts": 1}),
    ]
    assert notes.figures == {("rayft_train_restarts",): 1}
    assert len(shown) == 5


def test_a_sweep_tells_its_trials_as_they_change(tmp_path):
    sweep = test_sweep_conductor.Sweep(tmp_path, trials=3)
    notes, lines = Notes(), []
    watch = SweepWatch(sweep.config, notes, lines.append)
    standing = SimpleNamespace(phase="searching", conductor=sweep.conductor)
    first = sweep.conductor.next()
    second = sweep.conductor.next()
    for _ in range(2):
        watch.look(standing)
    sweep.report(first, epochs=1)
    watch.look(standing)
    sweep.finish(first)
    sweep.report(second, epochs=1, error="no such loss")
    watch.look(standing)
    assert [(line["trial"], line["event"], line["level"]) for line in lines] == [
        (first.id, "trial_running", "info"),
        (second.id, "trial_running", "info"),
        (first.id, "trial_epoch", "info"),
        (first.id, "trial_finished", "info"),
        (second.id, "trial_failed", "error"),
    ]
    assert lines[-1]["fields"]["error"] == "no such loss"
    assert lines[0]["fields"]["params"] == dict(first.params)
    states = {
        state: value
        for (name, *state), value in notes.figures.items()
        if name == "rayft_sweep_trials"
        for state in state
    }
    assert states == {"waiting": 0, "running": 0, "finished": 1, "stopped": 0, "failed": 1}
    assert notes.figures[("rayft_sweep_trials_planned",)] == 3
    assert notes.figures[("rayft_sweep_best", "accuracy")] == pytest.approx(first.params["optim.learning_rate"])
    assert notes.events == [("phase", "info", {"phase": "searching"})]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"profile": [20, 10]}}, r"profile is \[20, 10\]; the second step comes after the first"),
        ({"train": {"profile": [7, 7]}}, r"profile is \[7, 7\]; the second step comes after the first"),
        ({"train": {"profile": [0, 1001]}}, r"profile is \[0, 1001\]; .*at most 1,000 steps"),
        *(
            ({"train": {"profile": value}}, rf"train\.profile: got {re.escape(json.dumps(value))}; {STEPS_ALLOWED}")
            for value in ([-1, 5], ["a", 5], [1.5, 3], [5], [], [1, 2, 3], 7, "10-20")
        ),
        *(
            ({"track": {"metrics_port": value}}, rf"track\.metrics_port: got {json.dumps(value)}; {PORTS_ALLOWED}")
            for value in (80, 1023, 65536, -1, 9400.5, "abc", True)
        ),
        (
            {"track": {"metrics_port": 9400}, "cluster": {"address": "10.0.0.1:6379"}},
            "track.metrics_port is 9400 and cluster.address is 10.0.0.1:6379",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words) as error:
        parse_config({"data": {"source": "x"}, **changes})
    assert "--set" in error.value.args[1]


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("train.profile=10-20", rf'error: train\.profile: got "10-20"; {STEPS_ALLOWED}'),
        ("train.profile=[20, 10]", r"error: train: profile is \[20, 10\]; the second step comes after the first"),
        ("track.metrics_port=abc", rf'error: track\.metrics_port: got "abc"; {PORTS_ALLOWED}'),
        ("track.metrics_port=80", rf"error: track\.metrics_port: got 80; {PORTS_ALLOWED}"),
    ],
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_wrong_words_on_the_command_line_end_it_with_2(command, setting, shown, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("data: {source: x}\n")
    assert cli.main([command, "config.yaml", "--set", setting]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, lines
    assert re.match(shown, lines[0])
    assert lines[1].startswith("fix: Correct it")
