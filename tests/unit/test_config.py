import json
import random
import string
from pathlib import Path

import jsonschema
import pytest
import yaml

from rayft.config import RunConfig, dump_config, json_schema, load_config, parse_config
from rayft.config.problems import _PATTERNS
from rayft.errors import ConfigError
from rayft.yaml_text import read_yaml, write_yaml


def _file(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def _problem(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(_file(folder, text), overrides)
    problem, fix = caught.value.args
    assert fix
    assert "pydantic" not in problem
    return problem


def test_a_dumped_config_loads_to_the_same_config(tmp_path):
    text = """
    name: 1e-3x
    data: {source: "s3://b/1e5", image_size: [64, 48], columns: {group: "no"}, augment: {hue: 0.1}}
    model: {hidden: [256, 128], weights: "null"}
    freeze: {depth: 0.5}
    optim: {learning_rate: 1e-5, options: {beta_1: 0.8, nesterov: true, note: "1e-3"}}
    train: {loss: "mine:loss", step: "mine:step"}
    """
    config = load_config(_file(tmp_path, text))
    assert load_config(_file(tmp_path, dump_config(config))) == config
    assert config.optim.options == {"beta_1": 0.8, "nesterov": True, "note": "1e-3"}


def test_a_dumped_config_reads_alike_in_yaml_1_1():
    random.seed(0)
    awkward = ["no", "1:30", "2024-01-01", "010", "0o7", "1e-3", "1_0", "null", "a: b", "true", "~", "<<", "=", ".5"]
    words = awkward + ["".join(random.choices(string.printable, k=6)) for _ in range(300)]
    for word in words:
        text = write_yaml({"a": word})
        assert read_yaml(text, "") == {"a": word}
        assert yaml.safe_load(text) == {"a": word}


@pytest.mark.parametrize("text", ["1e-3", "0.001", "1.0E-3", ".001", "'1e-3'"])
def test_a_number_is_read_in_the_file_and_in_an_override(tmp_path, text):
    from_file = load_config(_file(tmp_path, f"data: {{source: x}}\noptim:\n  learning_rate: {text}\n"))
    from_override = load_config(_file(tmp_path, "data: {source: x}"), (f"optim.learning_rate={text}",))
    assert from_file.optim.learning_rate == from_override.optim.learning_rate == 0.001


def test_freeze_depth_keeps_the_kind_of_its_value():
    depths = [2, 1, 0.5, 1.0, "all", "block3"]
    kept = [parse_config({"data": {"source": "x"}, "freeze": {"depth": depth}}).freeze.depth for depth in depths]
    assert kept == depths
    assert [type(depth) for depth in kept] == [type(depth) for depth in depths]


def test_overrides_change_one_field_of_nested_empty_and_missing_sections(tmp_path):
    text = "data:\n  source: x\n  columns:\n    label: kind\n  augment:\noptim: {options: {beta_1: 0.5}}\n"
    overrides = ("data.columns.group=g", "data.augment.crop=0.1", "train.epochs=3", "optim.options.beta_2=0.9")
    config = load_config(_file(tmp_path, text), overrides)
    assert (config.data.columns.label, config.data.columns.group) == ("kind", "g")
    assert (config.data.augment.crop, config.train.epochs) == (0.1, 3)
    assert config.optim.options == {"beta_1": 0.5, "beta_2": 0.9}


def test_the_last_override_of_a_field_wins(tmp_path):
    config = load_config(_file(tmp_path, "data: {source: x}"), ("seed=1", "seed=2"))
    assert config.seed == 2


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("data.image_size=5", ["data.image_size: got 5;", "8, up to 4096"]),
        ("data.image_size=[64,64,3]", ["data.image_size: got [64, 64, 3];"]),
        ("data.image_size=true", ["data.image_size: got true;"]),
        ("freeze.depth=true", ["freeze.depth: got true;", "a number from 0, up to 1"]),
        ("freeze.depth=1.5", ["freeze.depth: got 1.5;"]),
        ("freeze.depth=-1", ["freeze.depth: got -1;", "a whole number from 0"]),
        ("freeze.depth=''", ['freeze.depth: got "";', "not empty"]),
        ("train.epochs=true", ["train.epochs: got true;", "a whole number from 1, up to 100000"]),
        ("train.epochs=2.5", ["train.epochs: got 2.5;"]),
        ("model.hidden=[true]", ["model.hidden: got [true];", "each item a whole number"]),
        ("optim.learning_rate=.nan", ["optim.learning_rate: got NaN;", "above 0, up to 1000"]),
        ("optim.options={a: [1]}", ['got {"a": [1]};', "a mapping of names"]),
        ("train.precision=fp8", ['got "fp8";', "float32, bfloat16, float16, float64"]),
        ("train.loss=hinge", ['got "hinge";', "binary_cross_entropy or text of the form module:function"]),
        ("name=a/b", ['name: got "a/b";', "letters, digits"]),
        ("train.epoch=3", ["train.epoch: unknown key; did you mean 'epochs'?"]),
        ("zzzz=3", ["zzzz: unknown key; known are name, storage"]),
        ("data.columns.imag=a", ["data.columns.imag: unknown key; did you mean 'image'?"]),
        ("freeze=", ["freeze: got nothing; it is a section with the fields depth, batch_norm"]),
        ("data=3", ["data: got 3; it is a section with the fields source"]),
        ("cluster.workers=33", ["cluster.workers is 33, data.global_batch_size is 32"]),
        ("model.backbone=none", ["model.pooling is avg; without a backbone only flatten"]),
        ("data.validation_fraction=0.5", ["validation_fraction is 0.5, test_fraction is 0.5;", "below 1"]),
        ("train.epochs", ["--set got 'train.epochs'"]),
        ("=3", ["--set got '=3'"]),
        ("seed.x=3", ["--set seed.x: 'seed' holds 7, so it has no fields"]),
        ("name=[", ["--set name: '[' is not valid YAML"]),
    ],
)
def test_a_wrong_value_is_named_once_with_what_is_allowed(tmp_path, override, parts):
    text = "seed: 7\ndata: {source: x, test_fraction: 0.5}\n"
    problem = _problem(tmp_path, text, override)
    assert len(problem.splitlines()) == 1
    for part in parts:
        assert part in problem


def test_every_wrong_field_is_named(tmp_path):
    problem = _problem(tmp_path, "sed: 1\ntrain: {epochs: 0}\ndata: {}\n")
    assert [line.split(":")[0] for line in sorted(problem.splitlines())] == ["data.source", "sed", "train.epochs"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("data: {source: x}\ndata: {source: y}", "line 2, column 1: key 'data' stands here a second time"),
        ("data: {source: x, source: y}", "key 'source' stands here a second time"),
        ("? [1, 2]\n: 3", "key [1, 2] is not text"),
        ("1: 2", "key 1 is not text"),
        ("a: &a [x]\nb: *a", "aliases"),
        ("a: &a [*a]", "aliases"),
        ("a: !!python/object/apply:os.system [ls]", "tag 'tag:yaml.org,2002:python/object/apply:os.system'"),
        ("a: !!timestamp never", "is not allowed"),
        ("a: !!int x", "'x' is not a number"),
        ("[" * 3000, "levels of nesting"),
        ("seed: " + "9" * 6000, "is not a number"),
        ("a: [1", "line 1, column 6"),
        ("a: \0", "is not YAML text"),
        ("", "holds nothing"),
        ("- a", 'holds ["a"]'),
        ("a: 1\n---\nb: 2", "another document"),
        ("#" * 1_000_002, "over 1,000,000 characters"),
    ],
    ids=lambda value: value[:20],
)
def test_a_hostile_or_broken_file_gives_one_line(tmp_path, text, part):
    assert part in _problem(tmp_path, text)


def test_an_unreadable_file_is_named(tmp_path):
    binary = tmp_path / "picture.png"
    binary.write_bytes(b"\x89PNG\xff\xfe")
    for path in (tmp_path, tmp_path / "absent.yaml", binary):
        with pytest.raises(ConfigError, match="Cannot read the config"):
            load_config(path)


def test_the_schema_accepts_what_we_accept_and_describes_every_field(tmp_path):
    schema = json.loads(json_schema())
    config = parse_config({"data": {"source": "x", "image_size": [64, 48]}, "freeze": {"depth": "block1"}})
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(config.model_dump(mode="json"), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"data": {"source": "x"}, "sed": 1}, schema)
    for section in [schema, *schema["$defs"].values()]:
        assert section["description"]
        for name, field in section["properties"].items():
            assert "description" in field or name == "data"


def test_every_pattern_of_a_field_has_words():
    patterns = set()

    def collect(node):
        if isinstance(node, dict):
            patterns.update([node["pattern"]] if isinstance(node.get("pattern"), str) else [])
            node = list(node.values())
        if isinstance(node, list):
            for item in node:
                collect(item)

    collect(json.loads(json_schema()))
    assert patterns == set(_PATTERNS)


def test_a_config_cannot_be_changed():
    config = parse_config({"data": {"source": "x"}})
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("freeze", "rate"), [({}, 3e-3), ({"depth": "all"}, 3e-3), ({"depth": 4}, 3e-4), ({"depth": 0.5}, 3e-4)]
)
def test_the_default_rate_suits_the_freeze_depth(freeze, rate):
    assert parse_config({"data": {"source": "x"}, "freeze": freeze}).optim.learning_rate == rate
    given = parse_config({"data": {"source": "x"}, "freeze": freeze, "optim": {"learning_rate": 0.1}})
    assert given.optim.learning_rate == 0.1
