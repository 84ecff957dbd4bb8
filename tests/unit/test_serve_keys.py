import base64
import json
import logging
import os
import stat
import threading
import time

import pytest
from serving import BrakedEngine, noise, serving, tiny_predictor

from rayft import cli
from rayft.errors import ConfigError
from rayft.serve import keys
from rayft.serve.keys import Keyring, check_exposure, create_key, is_loopback, read_keys, revoke_key
from rayft.serve.listen import ListenSettings


def test_a_key_is_shown_once_and_kept_as_a_hash(tmp_path):
    path = tmp_path / "keys.json"
    secret = create_key(path, "alice", ["zoo"])
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ring = Keyring(path)
    assert ring.find(secret).name == "alice"
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), "ä" * 10, "\udcff", "x" * 10_000):
        assert ring.find(wrong) is None


def test_a_key_covers_its_models_alone(tmp_path):
    path = tmp_path / "keys.json"
    create_key(path, "alice", ["zoo", "farm"])
    create_key(path, "bob")
    alice, bob = read_keys(path)
    assert [alice.covers(name) for name in ("zoo", "farm", "zo", "*")] == [True, True, False, False]
    assert bob.covers("anything")
    assert bob.covers("*")


def test_a_key_ends(tmp_path):
    path = tmp_path / "keys.json"
    secret, over = create_key(path, "alice", days=1), create_key(path, "bob", days=1e-9)
    ring = Keyring(path)
    assert ring.find(secret) is not None
    time.sleep(0.01)
    assert ring.find(over) is None


def test_changes_of_the_file_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "_POLL_S", 0.0)
    path = tmp_path / "keys.json"
    first = create_key(path, "alice")
    ring = Keyring(path)
    second = create_key(path, "bob")
    assert ring.find(second).name == "bob"
    revoke_key(path, "alice")
    assert ring.find(first) is None


def test_a_damaged_file_changes_nothing_and_lets_nobody_in(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(keys, "_POLL_S", 0.0)
    path = tmp_path / "keys.json"
    secret = create_key(path, "alice")
    ring = Keyring(path)
    path.write_text("{")
    assert ring.find(secret).name == "alice"
    assert ring.find("x") is None
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_keys_made_at_once_are_all_kept(tmp_path):
    path = tmp_path / "keys.json"
    threads = [threading.Thread(target=create_key, args=(path, f"user{i}")) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in read_keys(path)) == [f"user{i}" for i in range(8)]
    assert os.listdir(tmp_path) == ["keys.json"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{}]}', '{"format": 1, "keys": [{"name": "a"}]}'],
)
def test_a_file_that_holds_no_keys_is_refused(tmp_path, text):
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"keys\.json"):
        read_keys(path)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
    ],
)
def test_keys_may_be_off_on_loopback_alone(host, loopback):
    assert is_loopback(host) == loopback
    check_exposure(host, "keys.json")
    if loopback:
        check_exposure(host, None)
    else:
        with pytest.raises(ConfigError, match="without API keys"):
            check_exposure(host, None)


def test_the_commands_make_list_and_revoke(tmp_path, capsys):
    path = str(tmp_path / "keys.json")
    assert cli.main(["keys", "create", path, "alice", "--model", "zoo", "--days", "30"]) == 0
    secret = capsys.readouterr().out.strip()
    assert Keyring(tmp_path / "keys.json").find(secret).models == ("zoo",)
    assert cli.main(["keys", "create", path, "alice"]) == 2
    assert cli.main(["keys", "create", path, "a/b"]) == 2
    capsys.readouterr()
    assert cli.main(["keys", "list", path]) == 0
    listed = capsys.readouterr().out
    assert "alice" in listed
    assert "zoo" in listed
    assert secret not in listed
    assert read_keys(tmp_path / "keys.json")[0].sha256 not in listed
    assert cli.main(["keys", "list", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["keys"][0]["name"] == "alice"
    assert cli.main(["keys", "revoke", path, "bob"]) == 2
    assert cli.main(["keys", "revoke", path, "alice"]) == 0
    assert read_keys(tmp_path / "keys.json") == ()


# Over HTTP.


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    return path, create_key(path, "everything"), create_key(path, "zookeeper", ["zoo"])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory, secrets):
    engine = BrakedEngine(tiny_predictor(tmp_path_factory.mktemp("zoo") / "package"))
    with serving(engine, ListenSettings(port=0, keys=secrets[0])) as running:
        yield running


def routes(endpoint) -> list[tuple[str, str, str]]:
    """Method, path with a model out of scope, template of all routes."""
    described = json.loads(endpoint.ask("GET", "/openapi.json", headers=endpoint.bearer)[2])["paths"]
    found = [(method.upper(), path) for path, methods in described.items() for method in methods]
    found += [("GET", "/openapi.json"), ("GET", "/docs"), ("GET", "/nowhere"), ("POST", "/v1/models/farm:other")]
    return [(method, path.replace("{model}", "farm").replace("{version}", "3"), path) for method, path in found]


def test_every_route_but_health_needs_a_key_and_its_scope(endpoint, secrets):
    _, every, zoo = secrets
    endpoint.bearer = {"authorization": f"Bearer {every}"}
    asked = routes(endpoint)
    assert len(asked) > 20
    for method, path, template in asked:
        body = noise(1) if method == "POST" else None
        without = endpoint.ask(method, path, body)
        wrong = endpoint.ask(method, path, body, {"x-api-key": every[:-1] + "!"})
        if "health" in path:
            assert (without[0], wrong[0]) == (200, 200)
            continue
        assert (path, without[0], wrong[0]) == (path, 401, 401)
        assert "Bearer" in without[1]["www-authenticate"]
        scoped = endpoint.ask(method, path, body, {"x-api-key": zoo})[0]
        if "{model}" in template or path == "/metrics":
            assert (path, scoped) == (path, 403)
        else:
            assert scoped in (200, 404)
        assert endpoint.ask(method, path, body, endpoint.bearer)[0] not in (401, 403)


def test_a_key_is_accepted_in_every_header_that_clients_have(endpoint, secrets):
    _, every, _ = secrets
    basic = base64.b64encode(f"anybody:{every}".encode()).decode()
    for headers in (
        {"authorization": f"Bearer {every}"},
        {"Authorization": f"bearer  {every}"},
        {"X-API-Key": every},
        {"authorization": f"Basic {basic}", "sec-fetch-site": "same-origin"},
    ):
        assert endpoint.ask("GET", "/v1/models", headers=headers)[0] == 200
    for headers in (
        {"authorization": every},
        {"authorization": "Basic !"},
        {"authorization": f"Basic {basic}", "sec-fetch-site": "cross-site"},
        {"authorization": "Bearer"},
    ):
        assert endpoint.ask("GET", "/v1/models", headers=headers)[0] == 401
    assert endpoint.ask("GET", f"/v1/models?key={every}")[0] == 401


def test_the_listing_shows_what_is_in_scope(endpoint, secrets):
    _, every, zoo = secrets
    listings = [json.loads(endpoint.ask("GET", "/v1/models", headers={"x-api-key": key})[2]) for key in (every, zoo)]
    names = [[model["name"] for model in listing["models"]] for listing in listings]
    assert names == [["zoo", "farm"], ["zoo"]]


def test_keys_are_neither_in_logs_nor_in_answers(endpoint, secrets, caplog):
    _, every, zoo = secrets
    with caplog.at_level(logging.DEBUG):
        seen = [
            endpoint.ask("POST", f"/v1/models/{model}:predict?key={key}", noise(1), {"x-api-key": key})
            for key in (every, zoo, "unknown-secret")
            for model in ("zoo", "farm", key)
        ]
    lines = "\n".join(record.getMessage() for record in caplog.records)
    assert '"key": "zookeeper"' in lines
    for key in (every, zoo, "unknown-secret"):
        assert key not in lines
        # The name of a model that is not there is the one place where a client's text comes back to it.
        assert all(key not in repr(answer) for answer in seen[:2] + seen[3:5])
