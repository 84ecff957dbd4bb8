import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayft.config import parse_config
from rayft.errors import ConfigError, TrackingError
from rayft.runs import RunFolder
from rayft.tracking.events import open_tracking

LINES = [
    {"epoch": 1, "step": 5, "loss": 2.0, "learning_rate": 0.1, "examples_per_s": 10.0},
    {"epoch": 1, "step": 10, "loss": 1.0, "learning_rate": 0.1, "examples_per_s": 10.0, "accuracy": 0.5},
    {"epoch": 2, "step": 20, "loss": 0.5, "learning_rate": 0.1, "examples_per_s": 10.0, "accuracy": 0.75},
]
RESULT = {"final": {"accuracy": 0.75, "test_accuracy": 0.7}, "calibration": {"temperature": 1.25}, "steps": 20}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Start, or go on with, a run that is tracked as told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1]), *sys.path])

    def start(**track):
        config = parse_config({"name": "pets", "storage": str(tmp_path), "data": {"source": "x"}, "track": track})
        folder = RunFolder.of(config)
        folder.begin(config, fresh=False)
        tracking = open_tracking(config, folder)
        tracking.begin(config)
        return tracking, folder

    return start


def events(tmp_path):
    return [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]


def steps(told):
    return [line["step"] for event in told if event["event"] == "metrics" for line in event["lines"]]


def test_a_hook_hears_the_start_each_line_once_and_the_end(start, tmp_path):
    tracking, folder = start(hook="own_tracking:note")
    shown = []
    observe = tracking.observe(shown.append)
    for epochs in range(3):
        folder.write_metrics(LINES[: epochs + 1])
        for _ in range(3):
            observe({"phase": "training", "done_epochs": epochs})
    tracking.end("finished", RESULT)
    told = events(tmp_path)
    assert [event["event"] for event in told] == ["begin", "metrics", "metrics", "metrics", "end"]
    assert steps(told) == [5, 10, 20]
    assert (told[0]["run"], told[0]["resumed"], told[0]["config"]["name"]) == ("pets", False, "pets")
    assert (told[-1]["status"], told[-1]["result"]) == ("finished", RESULT)
    assert len(shown) == 9


def test_after_a_resumption_no_line_is_told_twice(start, tmp_path):
    tracking, folder = start(hook="own_tracking:note")
    folder.write_metrics(LINES[:2])
    tracking.observe(lambda state: None)({"done_epochs": 1})
    again, folder = start(hook="own_tracking:note")
    folder.write_metrics(LINES)
    again.end("finished", RESULT)
    told = events(tmp_path)
    assert steps(told) == [5, 10, 20]
    assert [event["resumed"] for event in told if event["event"] == "begin"] == [False, True]


def test_a_hook_that_breaks_down_later_is_a_notice_and_what_it_missed_is_told_again(start):
    tracking, folder = start(hook="own_tracking:broken")
    folder.write_metrics(LINES)
    tracking.observe(lambda state: None)({"done_epochs": 1})
    (notice,) = tracking.notices
    assert notice.startswith(
        "track.hook misses metrics: track.hook 'own_tracking:broken' raised OSError: no such board"
    )
    assert json.loads((folder.storage / "tracking.json").read_bytes())["track.hook"]["logged_step"] == 0
    tracking.end("finished", RESULT)
    assert len(tracking.notices) == 2


def test_a_hook_that_does_not_exist_is_refused_at_once(start):
    with pytest.raises(ConfigError, match=r"track\.hook is 'own_tracking:nothing'"):
        start(hook="own_tracking:nothing")


def test_without_track_nothing_is_written(start):
    tracking, folder = start()
    tracking.observe(lambda state: None)({"done_epochs": 1})
    tracking.end("finished", RESULT)
    assert folder.storage.list() == ["config.yaml"]


def test_an_experiment_without_a_uri_is_refused():
    with pytest.raises(ConfigError, match="uri is empty"):
        parse_config({"data": {"source": "x"}, "track": {"mlflow": {"experiment": "pets"}}})


def test_a_missing_mlflow_names_the_extra(tmp_path):
    code = """
import sys
sys.modules["mlflow"] = None
from rayft.config import MlflowConfig
from rayft.tracking.mlflow_store import MlflowTracker
MlflowTracker(MlflowConfig(uri="x"))"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "pip install 'rayft[mlflow]'" in done.stderr


@pytest.fixture
def store(tmp_path):
    """A local MLflow: its URI, and a client."""
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return uri, mlflow.MlflowClient(tracking_uri=uri)


# MLflow's own use of SQLAlchemy is deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mlflow_holds_parameters_metrics_package_and_report_of_one_run(start, store):
    uri, client = store
    tracking, folder = start(mlflow={"uri": uri, "experiment": "zoo"})
    folder.write_metrics(LINES[:2])
    tracking.observe(lambda state: None)({"done_epochs": 1})
    tracking.end("interrupted", {"status": "interrupted"})
    (run,) = client.search_runs([client.get_experiment_by_name("zoo").experiment_id])
    assert run.info.status == "KILLED"

    again, folder = start(mlflow={"uri": uri, "experiment": "zoo"})
    folder.write_metrics(LINES)
    (folder.package / "package.json").write_bytes(b"{}")
    (folder.storage / "report.html").write_bytes(b"<p>")
    again.end("finished", RESULT)
    assert again.notices == []
    (run,) = client.search_runs([client.get_experiment_by_name("zoo").experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "pets")
    assert run.data.params["optim.name"] == "adam"
    assert run.data.metrics["final_test_accuracy"] == 0.7
    assert run.data.metrics["temperature"] == 1.25
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(5, 2.0), (10, 1.0), (20, 0.5)]
    files = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"package", "report.html", "config.yaml", "metrics.jsonl"} <= files


def test_an_mlflow_that_cannot_be_reached_stops_the_run_before_it_trains(start, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(TrackingError, match="Cannot start a run in MLflow"):
        start(mlflow={"uri": "http://127.0.0.1:9"})
