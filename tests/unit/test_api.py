import json
import pickle
import subprocess
import sys

import pytest

import rayft
from rayft.config import RunConfig, resolve_config
from rayft.errors import ConfigError
from rayft.results import Evaluation, RunResult

RESULT = {
    "name": "pets",
    "status": "finished",
    "best": {"epoch": 2, "step": 8, "accuracy": 0.5},
    "final": {"accuracy": 0.5, "test_accuracy": 0.25},
    "wall_s": 61.23,
    "package": "s3://bucket/runs/pets/package?region=eu",
}


def test_every_public_name_resolves_and_there_are_at_most_ten():
    assert len(rayft.__all__) <= 10
    assert {name for name in rayft.__all__ if getattr(rayft, name) is None} == set()
    assert dir(rayft) == sorted(rayft.__all__)


def test_a_config_may_be_a_tree_a_mapping_or_a_path(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("data: {source: x}\nfreeze: {depth: 0}\n")
    tree = resolve_config({"data": {"source": "x"}, "freeze": {"depth": 0}}, ())
    assert resolve_config(path, ()) == resolve_config(str(path), ()) == resolve_config(tree, ()) == tree
    changed = [
        resolve_config(kind, ["train.epochs=3"])
        for kind in (path, tree, {"data": {"source": "x"}, "freeze": {"depth": 0}})
    ]
    assert [config.train.epochs for config in changed] == [3, 3, 3]
    assert tree.train.epochs == 10
    with pytest.raises(ConfigError, match="The config is a int"):
        resolve_config(3, ())
    with pytest.raises(ConfigError, match=r"train\.epoch: unknown key"):
        resolve_config({"data": {"source": "x"}}, ["train.epoch=3"])


def test_an_override_of_a_tree_finds_dependent_defaults_anew():
    head_only = resolve_config({"data": {"source": "x"}}, ())
    assert isinstance(head_only, RunConfig)
    assert resolve_config(head_only, ["freeze.depth=0"]).optim.learning_rate == 3e-4


def test_a_result_is_its_file_and_cannot_be_changed():
    result = RunResult(RESULT)
    assert result.to_dict() == RESULT == dict(result)
    assert result["final"]["test_accuracy"] == 0.25
    result["final"]["test_accuracy"] = 1.0
    result.to_dict()["final"].clear()
    assert result.to_dict() == RESULT
    assert result.folder == "s3://bucket/runs/pets?region=eu"
    assert pickle.loads(pickle.dumps(result)) == result
    with pytest.raises(TypeError):
        result["status"] = "failed"
    with pytest.raises(AttributeError):
        result.status = "failed"


def test_results_show_themselves_in_a_shell_and_in_a_notebook():
    result = RunResult({**RESULT, "name": "<pets>"})
    assert repr(result).startswith("RunResult('<pets>', status=finished, accuracy=0.5000, test_accuracy=0.2500")
    assert "&lt;pets&gt;" in result._repr_html_()
    assert "0.2500" in result._repr_html_()
    found = {"model": "m", "data": "d", "split": "test", "examples": 4, "metrics": {"accuracy": 0.5}}
    evaluation = Evaluation({**found, "accuracy_interval": [0.15, 0.85], "temperature": 1.5})
    assert repr(evaluation) == (
        "Evaluation('m on d', split=test, examples=4, accuracy=0.5000, accuracy_interval=[0.1500, 0.8500], "
        "temperature=1.5000)"
    )
    assert json.dumps(evaluation.to_dict())


def test_loading_from_a_script_prints_nothing_but_its_error():
    code = """
import rayft
try:
    rayft.load('./nowhere')
except rayft.RayftError as error:
    print(type(error).__name__)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("PackageError\n", "")
