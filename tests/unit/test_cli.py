import json
import subprocess
import sys
import time

import pytest
import yaml

from rayft import cli


def _python(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60)


def test_help_loads_no_heavy_package():
    code = (
        "import sys, rayft.cli; rayft.cli.main(['--help']);"
        "print({'ray', 'keras', 'tensorflow', 'pyarrow', 'numpy', 'pydantic', 'rich'} & set(sys.modules))"
    )
    assert _python("-c", code).stdout.splitlines()[-1] == "set()"


def test_help_answers_within_half_a_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert _python("-m", "rayft", "--help").returncode == 0
        seconds.append(time.perf_counter() - start)
    # The best of three: a busy machine may delay any one of them.
    assert min(seconds) < 0.5


def test_the_package_exports_at_most_ten_names_lazily():
    code = "import sys, rayft; print(len(rayft.__all__), rayft.RunConfig.__name__, 'ray' in sys.modules)"
    count, name, has_ray = _python("-c", code).stdout.split()
    assert (int(count) <= 10, name, has_ray) == (True, "RunConfig", "False")


def test_the_module_runs_like_the_command():
    done = _python("-m", "rayft", "--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0.1.0\n", "")


def test_the_schema_is_json(capsys):
    assert cli.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["additionalProperties"] is False


@pytest.mark.parametrize(
    "arguments", [["train"], ["frobnicate"], ["train", "c.yaml", "--sett", "a=1"], ["predict", "m", "p", "--top", "0"]]
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    assert cli.main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_of_ours_shows_problem_and_fix_on_stderr(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("data: {source: x}\ntrain: {epoch: 3}\n")
    assert cli.main(["train", str(config)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "error: train.epoch: unknown key; did you mean 'epochs'?",
        "fix: Correct it in the file or with --set; `rayft schema` lists every field.",
    ]


@pytest.mark.parametrize(("raised", "code"), [("RunFailed('p', 'f')", 1), ("RunInterrupted('p', 'f')", 130)])
def test_the_kind_of_error_decides_the_exit_code(raised, code):
    done = _python(
        "-c",
        f"""
import sys
from rayft import cli
from rayft.errors import *
@cli.app.command()
def fail():
    raise {raised}
sys.exit(cli.main(["fail"]))""",
    )
    assert (done.returncode, done.stderr) == (code, "error: p\nfix: f\n")


def test_ctrl_c_exits_with_130_and_a_bug_with_its_traceback():
    code = "import sys; from rayft import cli\n@cli.app.command()\ndef f():\n    raise {}\nsys.exit(cli.main(['f']))"
    assert _python("-c", code.format("KeyboardInterrupt")).returncode == 130
    bug = _python("-c", code.format("ZeroDivisionError"))
    assert bug.returncode == 1
    assert "Traceback" in bug.stderr


@pytest.mark.parametrize(
    ("flag", "file", "variable", "expected"),
    [
        (None, None, None, None),
        (None, None, "memory://variable", "memory://variable"),
        (None, "memory://file", "memory://variable", "memory://file"),
        ("memory://flag", "memory://file", "memory://variable", "memory://flag"),
    ],
)
def test_the_nearest_word_on_the_registry_of_an_endpoint_counts(
    flag, file, variable, expected, tmp_path, monkeypatch, capsys
):
    config, written = tmp_path / "endpoint.yaml", tmp_path / "serve.yaml"
    config.write_text("models: [zoo]\n" + (f"registry: {file}\n" if file else ""))
    monkeypatch.delenv("RAYFT_REGISTRY", raising=False)
    if variable:
        monkeypatch.setenv("RAYFT_REGISTRY", variable)
    flags = ["--registry", flag] if flag else []
    tls = ["--tls-cert", "c.pem", "--tls-key", "k.pem", "--tls-client-ca", "ca.pem"]
    assert cli.main(["serve", "--config", str(config), *flags, *tls, "--write-config", str(written)]) == 0
    arguments = yaml.safe_load(written.read_text())["applications"][0]["args"]
    assert arguments.get("registry") == expected
    assert arguments["tls"] == {"cert": "c.pem", "key": "k.pem", "client_ca": "ca.pem"}
