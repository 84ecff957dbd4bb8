"""The token of clusters is the owner's alone; passwords come into no config."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayft.cli import main
from rayft.config import ServeConfig, check_section, parse_config
from rayft.credentials import ensure_token, find_token, has_password, without_password
from rayft.errors import ClusterError, ConfigError, StorageError
from rayft.storage import Storage

PLANTED = "planted-secret"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path):
    return path.stat().st_mode & 0o777


def test_a_token_is_made_once_and_readable_to_its_owner_alone(home):
    assert find_token() is None
    ensure_token()
    path = home / ".ray" / "auth_token"
    first = path.read_text()
    assert (len(first), mode(path)) == (64, 0o600)
    ensure_token()
    assert find_token() == (first, str(path))
    assert [each.name for each in path.parent.iterdir()] == ["auth_token"]


def test_a_token_is_never_readable_to_others_not_even_before_it_has_its_name(home, monkeypatch):
    # find_token closes a file that was left open, so the mode at the end says nothing of the one at the start.
    link, seen = os.link, []

    def looked_at(source, target):
        seen.append((len(Path(source).read_text()), mode(Path(source))))
        link(source, target)

    monkeypatch.setattr(os, "link", looked_at)
    mask = os.umask(0)
    try:
        ensure_token()
    finally:
        os.umask(mask)
    assert seen == [(64, 0o600)]


def test_many_that_start_at_once_take_one_token(home):
    code = "from rayft.credentials import *; ensure_token(); print(find_token()[0])"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    assert len({each.communicate()[0] for each in started}) == 1


@pytest.mark.parametrize("opened", [0o644, 0o660, 0o604])
def test_a_token_that_ray_left_readable_to_others_is_closed(opened, home):
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("abc")
    path.chmod(opened)
    assert find_token() == ("abc", str(path))
    assert mode(path) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes another user's file")
def test_a_token_of_another_user_is_left_as_it_is(home, monkeypatch):
    path = home / "shared-token"
    path.write_text("abc")
    path.chmod(0o644)
    os.chown(path, 65534, 65534)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    assert find_token() == ("abc", str(path))
    assert mode(path) == 0o644


def test_the_environment_comes_before_files(home, monkeypatch):
    ensure_token()
    (home / "other").write_text(" from a file \n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "other"))
    assert find_token() == ("from a file", str(home / "other"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    assert find_token() == ("given", "RAY_AUTH_TOKEN")


def test_a_named_file_that_is_missing_is_told_not_taken_for_none(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "none"))
    with pytest.raises(ClusterError, match="No such file"):
        find_token()


def test_an_empty_token_file_is_told_not_left_to_ray(home):
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").touch()
    with pytest.raises(ClusterError, match="no token can be read from it"):
        ensure_token()


def test_a_home_that_cannot_be_written_is_told(home, monkeypatch):
    monkeypatch.setenv("HOME", "/proc")
    with pytest.raises(ClusterError, match=r"Cannot write the token of Ray's clusters to /proc/\.ray/auth_token"):
        ensure_token()


def test_no_token_is_made_where_authentication_is_switched_off(home, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ensure_token()
    assert not (home / ".ray").exists()


def test_ray_is_told_to_ask_for_tokens_before_it_is_imported():
    code = "import rayft.distributed, os, ray; print(os.environ['RAY_AUTH_MODE'])"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "token\n"


def test_ray_reports_no_usage():
    code = "import rayft.distributed; from ray._common.usage import usage_lib as u; print(u.usage_stats_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "RAY_USAGE_STATS_ENABLED"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"s3://key:{PLANTED}@bucket/a?region=x", "s3://key:***@bucket/a?region=x"),
        (f"abfs://:{PLANTED}@account/container", "abfs://:***@account/container"),
        (f"see https://me:{PLANTED}@host:80/x", "see https://me:***@host:80/x"),
        (f"abfs://box@account/a?client_secret={PLANTED}&x=y", "abfs://box@account/a?client_secret=***&x=y"),
        (f"https://host/x?sig={PLANTED}", "https://host/x?sig=***"),
        ("s3://bucket/a@b:c", None),
        ("s3://bucket/token=a?signed=b", None),
        ("https://host:80/x@y", None),
        ("s3://key@bucket", None),
        ("/a:b@c", None),
    ],
)
def test_a_password_is_found_in_an_address_alone(text, shown):
    assert has_password(text) == (shown is not None)
    assert without_password(text) == (shown or text)


@pytest.mark.parametrize(
    "tree",
    [
        {"storage": f"s3://key:{PLANTED}@bucket"},
        {"data": {"source": f"s3://key:{PLANTED}@bucket/data"}},
        {"registry": {"location": f"s3://key:{PLANTED}@bucket/registry"}},
        {"track": {"mlflow": {"uri": f"https://me:{PLANTED}@mlflow"}}},
        {"train": {"epochs": f"s3://key:{PLANTED}@bucket"}},
    ],
)
def test_a_config_with_a_password_is_refused_without_repeating_it(tree):
    with pytest.raises(ConfigError) as error:
        parse_config({"data": {"source": "x"}, **tree})
    assert PLANTED not in str(error.value)
    assert "***@" in str(error.value)
    assert "AWS_SECRET_ACCESS_KEY" in str(error.value)


def test_neither_an_endpoint_nor_a_storage_takes_one():
    with pytest.raises(ConfigError) as error:
        check_section(ServeConfig, {"models": ["a"], "registry": f"s3://key:{PLANTED}@bucket"})
    assert PLANTED not in str(error.value)
    with pytest.raises(StorageError) as problem:
        Storage.open(f"s3://key:{PLANTED}@bucket/runs")
    assert PLANTED not in str(problem.value)


def test_the_command_line_repeats_no_password(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("data: {source: pets}\n")
    assert main(["train", "config.yaml", "--set", f"storage=s3://key:{PLANTED}@bucket"]) == 2
    shown = capsys.readouterr()
    assert PLANTED not in shown.out + shown.err
    assert list(tmp_path.iterdir()) == [tmp_path / "config.yaml"]
