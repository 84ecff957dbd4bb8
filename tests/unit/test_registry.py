import json
import shutil

import pytest
from registering import PROCESSES, act, act_and_die, register_many
from sealing import sealed_folder

from rayft.config import GateConfig, parse_config
from rayft.errors import ConfigError, PackageError, RegistryError, StorageError
from rayft.registry.gate import check_gate, gate_of, read_gate
from rayft.registry.locate import located, pinned
from rayft.registry.registry import Registry
from rayft.registry.result import register_result


@pytest.fixture
def package(tmp_path):
    return sealed_folder(tmp_path / "package")


@pytest.fixture
def registry(tmp_path):
    return Registry.open(tmp_path / "registry")


def _register(registry, package, count):
    return [registry.register(package, "zoo") for _ in range(count)]


def test_versions_count_from_one_and_keep_their_content(registry, package, tmp_path):
    first = registry.register(package)
    other = sealed_folder(tmp_path / "other", metrics={"accuracy": 0.75})
    second = registry.register(other, "zoo")
    assert [str(first), str(second)] == ["zoo@1", "zoo@2"]
    assert (first.metrics, second.metrics) == ({"accuracy": 0.5}, {"accuracy": 0.75})
    for version, source in ((first, package), (second, other)):
        folder = registry.fetch(version, tmp_path / "unused")
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
            path.name: path.read_bytes() for path in source.iterdir()
        }
    assert registry.names() == ["zoo"]
    assert first.size_bytes == sum(path.stat().st_size for path in package.iterdir())


def test_a_model_is_found_by_number_alias_champion_and_latest(registry, package):
    first, second, third = _register(registry, package, 3)
    assert registry.find("zoo") == registry.find("zoo@latest") == third
    assert registry.promote(first, "champion") == (None, first)
    assert registry.promote(second, "canary") == (None, second)
    found = [registry.find(name) for name in ("zoo", "zoo@champion", "zoo@canary", "zoo@2", "zoo@latest")]
    assert found == [first, first, second, second, third]
    assert registry.state("zoo").aliases_of(1) == ["champion"]


@pytest.mark.parametrize("model", ["zoo@4", "zoo@canary", "zoo@", "zoo@0", "nothing", "a/b", "../zoo"])
def test_what_is_not_there_is_an_error_that_lists_what_is(registry, package, model):
    _register(registry, package, 2)
    with pytest.raises(RegistryError):
        registry.find(model)
    with pytest.raises(RegistryError, match=r"zoo@4 does not exist; there are 1, 2"):
        registry.find("zoo@4")


def test_rollback_goes_back_step_by_step_and_passes_over_what_was_deleted(registry, package):
    versions = _register(registry, package, 4)
    for version in versions:
        registry.promote(version, "champion")
    registry.delete(versions[1])
    assert registry.rollback("zoo") == (versions[3], versions[2])
    assert registry.rollback("zoo") == (versions[2], versions[0])
    with pytest.raises(RegistryError, match="zoo@champion is version 1; no version before it is left"):
        registry.rollback("zoo")
    with pytest.raises(RegistryError, match="zoo has no alias 'canary'; it has champion"):
        registry.rollback("zoo", "canary")
    # A promotion after a rollback starts from where the alias is.
    registry.promote(versions[3], "champion")
    assert registry.rollback("zoo") == (versions[3], versions[0])


def test_a_version_under_an_alias_cannot_be_deleted(registry, package):
    first, second = _register(registry, package, 2)
    registry.promote(first, "champion")
    with pytest.raises(RegistryError, match="zoo@1 is protected: champion leads to it"):
        registry.delete(first)
    registry.promote(second, "champion")
    registry.delete(first)
    assert not registry.folder(first).exists()
    with pytest.raises(RegistryError, match="zoo@1 was deleted; there are 2, champion"):
        registry.find("zoo@1")
    with pytest.raises(RegistryError, match="was deleted"):
        registry.promote(first, "champion")


def test_the_number_of_a_deleted_version_is_never_used_again(registry, package):
    first, second = _register(registry, package, 2)
    registry.delete(second)
    assert registry.register(package, "zoo").number == 3
    assert registry.find("zoo@latest").number == 3
    assert registry.find("zoo@1") == first


def test_the_history_tells_who_did_what(registry, package):
    (first,) = _register(registry, package, 1)
    registry.promote(first, "champion", facts={"latency_ms": 3.0})
    history = Registry(registry.storage).state("zoo").history
    assert [entry["action"] for entry in history] == ["register", "promote"]
    assert all("@" in entry["by"] and entry["at"].endswith("Z") for entry in history)
    assert history[1]["facts"] == {"latency_ms": 3.0}


def test_a_package_is_checked_before_it_is_registered_and_when_it_is_fetched(registry, package, tmp_path):
    version = registry.register(package)
    stored = registry.folder(version)
    (stored / "MODEL_CARD.md").write_bytes(b"# other\n")
    with pytest.raises(PackageError, match=r"MODEL_CARD\.md was changed"):
        registry.fetch(version, tmp_path / "unused")
    shutil.rmtree(stored.root)
    shutil.copytree(sealed_folder(tmp_path / "other", name="other"), stored.root)
    with pytest.raises(PackageError, match="holds another package than zoo@1"):
        registry.fetch(version, tmp_path / "unused")
    (package / "golden.arrow").write_bytes(b"changed")
    with pytest.raises(PackageError, match=r"golden\.arrow was changed"):
        registry.register(package)
    assert len(registry.state("zoo").versions) == 1


@pytest.mark.parametrize("name", ["", "a/b", "..", "a@1", "-x", "x" * 101])
def test_names_that_would_lead_elsewhere_are_refused(registry, package, name, tmp_path):
    with pytest.raises(RegistryError, match="The model's name is"):
        registry.register(package, name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["package"]


@pytest.mark.parametrize("alias", ["", "7", "latest", "a b", "a@b"])
def test_aliases_that_could_be_mistaken_are_refused(registry, package, alias):
    (version,) = _register(registry, package, 1)
    with pytest.raises(RegistryError, match="The alias is"):
        registry.promote(version, alias)


def test_a_damaged_log_is_named_and_not_written_to(registry, package):
    _register(registry, package, 3)
    log = registry.storage / "zoo" / "log"
    (log / "00000002.json").write_bytes(b"{")
    with pytest.raises(StorageError, match=r"00000002\.json is damaged"):
        Registry(registry.storage).register(package, "zoo")
    (log / "00000002.json").delete()
    with pytest.raises(StorageError, match=r"lacks entry 2, though it has 00000003\.json"):
        Registry(registry.storage).state("zoo")


def test_a_pinned_place_means_the_same_in_another_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert pinned("runs/one") == (str(tmp_path / "runs" / "one"), None)
    assert pinned("~/one") == ("/home/somebody/one", None)
    for place in ("/runs/one", "s3://bucket/runs/one?region=x"):
        assert pinned(place) == (place, None)


def test_a_model_is_located_by_name_or_place(registry, package, tmp_path, monkeypatch):
    (version,) = _register(registry, package, 1)
    for model in ("zoo", "zoo@1"):
        with located(model, registry.storage.root) as found:
            assert (found.version, str(found.folder)) == (version, registry.folder(version).root)
    monkeypatch.chdir(tmp_path)
    for model in ("package", "./package", str(package)):
        with located(model) as found:
            assert (found.version, found.folder) == (None, package)
    with located("zoo") as found:
        assert found.version == version


def test_a_finished_run_is_registered_once(registry, package):
    config = parse_config(
        {"data": {"source": "x"}, "registry": {"location": registry.storage.root, "register": "flowers"}}
    )
    result = {"name": "run", "package": str(package)}
    registered = register_result(config, result)
    assert registered == {**result, "registered": "flowers@1"}
    # As after a crash before result.json was written, and as in a second call.
    assert register_result(config, result) == registered
    assert register_result(config, registered) == registered
    assert list(registry.state("flowers").versions) == [1]
    assert register_result(parse_config({"data": {"source": "x"}}), result) == result


def test_the_gate_names_each_threshold_it_refuses_for_with_the_value():
    gate = GateConfig(
        min_metrics={"accuracy": 0.8, "auc": 0.5}, max_metrics={"log_loss": 0.5}, max_latency_ms=5, max_size_mb=1
    )
    with pytest.raises(RegistryError) as caught:
        check_gate(gate, "zoo@3", {"accuracy": 0.75, "log_loss": 0.625}, 1_500_000, lambda: 7.25)
    assert caught.value.args[0] == (
        "The gate refuses zoo@3: min_metrics.accuracy is 0.8, the value is 0.75; "
        "min_metrics.auc is 0.5, but the package has no such metric (accuracy, log_loss); "
        "max_metrics.log_loss is 0.5, the value is 0.625; max_size_mb is 1, the value is 1.5; "
        "max_latency_ms is 5, the value is 7.25."
    )


def test_the_gate_lets_through_what_just_reaches_it_and_measures_only_what_it_asks_for():
    gate = GateConfig(min_metrics={"accuracy": 0.75}, max_size_mb=1.5)
    measured = check_gate(gate, "zoo@3", {"accuracy": 0.75}, 1_500_000, lambda: pytest.fail("measured"))
    assert measured == {"min_metrics.accuracy": 0.75, "max_size_mb": 1.5}
    with pytest.raises(RegistryError, match=r"min_metrics\.accuracy is 0\.75, the value is nan"):
        check_gate(gate, "zoo@3", {"accuracy": float("nan")}, 0, lambda: 0.0)


def test_gates_are_read_from_the_runs_config_and_from_a_file(tmp_path):
    config = parse_config({"data": {"source": "x"}, "registry": {"gate": {"max_size_mb": 20}}})
    assert gate_of({"lineage": {"config": config.model_dump(mode="json")}}) == GateConfig(max_size_mb=20)
    assert gate_of({"lineage": {"config": {}}}) == GateConfig()
    path = tmp_path / "gate.yaml"
    path.write_text("min_metrics: {accuracy: 0.8}\nmax_latency_ms: 30\n")
    assert read_gate(path) == GateConfig(min_metrics={"accuracy": 0.8}, max_latency_ms=30)
    path.write_text("max_latency: 30\n")
    with pytest.raises(ConfigError, match="max_latency: unknown key; did you mean 'max_latency_ms'"):
        read_gate(path)


def test_sixteen_processes_register_at_once_and_get_sixteen_numbers(registry, package, tmp_path):
    start, numbers = PROCESSES.Barrier(16), PROCESSES.Queue()
    arguments = (registry.storage.root, str(package), start, 2, numbers)
    processes = [PROCESSES.Process(target=register_many, args=arguments) for _ in range(16)]
    for process in processes:
        process.start()
    got = sorted(numbers.get(timeout=60) for _ in range(32))
    for process in processes:
        process.join(60)
    assert got == list(range(1, 33))
    for version in registry.state("zoo").versions.values():
        registry.fetch(version, tmp_path / "unused")
    assert registry.orphans("zoo") == []
    assert all(name.endswith(".json") for name in (registry.storage / "zoo" / "log").list())


@pytest.mark.parametrize("action", ["register", "promote", "rollback", "delete"])
def test_a_kill_at_any_write_leaves_the_state_before_or_after(registry, package, tmp_path, action):
    versions = _register(registry, package, 3)
    registry.promote(versions[1], "champion")
    registry.promote(versions[2], "champion")
    kept = tmp_path / "kept"
    shutil.copytree(registry.storage.root, kept)
    before, after = _summary(registry), None
    outcomes = set()
    # An upload has many more writes than the others; every third stands for its like.
    for survived in range(0, 100, 3 if action == "register" else 1):
        shutil.rmtree(registry.storage.root)
        shutil.copytree(kept, registry.storage.root)
        process = PROCESSES.Process(target=act_and_die, args=(registry.storage.root, action, str(package), survived))
        process.start()
        process.join(60)
        fresh = Registry(registry.storage)
        outcomes.add(summary := json.dumps(_summary(fresh)))
        for version in fresh.state("zoo").versions.values():
            fresh.fetch(version, tmp_path / "unused")
        # The next writer is not held up by what was left.
        assert fresh.register(package, "zoo").number == fresh.state("zoo").next_number - 1
        if process.exitcode == 0:
            after = summary
            break
    assert survived >= 3
    assert outcomes == {json.dumps(before), after}


def _summary(registry):
    state = registry.state("zoo")
    return {"versions": list(state.versions), "aliases": state.aliases, "deleted": list(state.deleted)}


def test_what_a_process_does_is_seen_by_an_open_registry(registry, package):
    _register(registry, package, 1)
    act(registry.storage.root, "promote", str(package))
    assert registry.state("zoo").aliases == {"champion": 1}
