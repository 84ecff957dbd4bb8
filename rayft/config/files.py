"""Configs between text, file and tree."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from rayft.config.prefix import expand_shorthand
from rayft.config.problems import describe_problem, show_value
from rayft.config.run import RunConfig
from rayft.config.section import Section
from rayft.errors import ConfigError
from rayft.yaml_text import read_yaml, write_yaml

# Larger files are no configs; reading one whole could exhaust memory.
_MAX_CONFIG_BYTES = 1_000_000

AnySection = TypeVar("AnySection", bound=Section)


def load_config(path: str | PathLike[str], overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML file, apply ``a.b=value`` overrides, and check the result.

    A relative ``data.source`` or weights path stays relative to the working directory.

    Raises:
        ConfigError: The file is unreadable, is not YAML, or a value is not allowed.
    """
    raw = read_tree(path)
    # An override may name a field of a section that the file writes as one word.
    raw = expand_shorthand(raw)
    return parse_config(with_overrides(raw, overrides))


def read_tree(path: str | PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping of sections.

    Raises:
        ConfigError: It is unreadable, or is none.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"Cannot read the config {str(path)!r}: {reason}.", "Give the path of a YAML file.") from None
    if len(text) > _MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path} has over {_MAX_CONFIG_BYTES:,} characters; that is no config.", "Give the path of a YAML file."
        )
    raw = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} holds {show_value(raw)}, not a mapping of sections.", "Start with `data:` and its `source:`."
        )
    return raw


def resolve_config(config: RunConfig | Mapping[str, Any] | str | PathLike[str], overrides: Sequence[str]) -> RunConfig:
    """Return the checked config of a tree, a plain mapping or a YAML file, with ``a.b=value`` overrides.

    Raises:
        ConfigError: The file is unreadable, or a value is not allowed.
    """
    if isinstance(config, (str, PathLike)):
        return load_config(config, tuple(overrides))
    if isinstance(config, RunConfig):
        # Written fields alone, so that defaults that depend on others are found anew.
        return parse_config(with_overrides(config.model_dump(exclude_unset=True), overrides)) if overrides else config
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"The config is a {type(config).__name__}.", "Give a RunConfig, a mapping of sections, or a path."
        )
    return parse_config(with_overrides(dict(config), overrides))


def with_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a plain tree with ``a.b=value`` overrides.

    Raises:
        ConfigError: An override is malformed.
    """
    tree = copy.deepcopy(raw)
    for override in overrides:
        _apply_override(tree, override)
    return tree


def parse_config(raw: dict[str, Any]) -> RunConfig:
    """Check a plain mapping against the tree.

    Raises:
        ConfigError: Names every wrong field, its value and what is allowed.
    """
    return check_section(RunConfig, expand_shorthand(raw))


def check_section(section: type[AnySection], raw: Any) -> AnySection:
    """Check a plain mapping against a section of the tree, which may be its root.

    Raises:
        ConfigError: Names every wrong field, its value and what is allowed.
    """
    if not isinstance(raw, dict):
        raise ConfigError(
            f"got {show_value(raw)}, not a mapping of {', '.join(section.model_fields)}.", "Write `field: value` lines."
        )
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        # A field of several types gives an error per type; one line is enough.
        lines = dict.fromkeys(describe_problem(problem, raw, section) for problem in error.errors(include_url=False))
        raise ConfigError(
            "\n".join(lines), "Correct it in the file or with --set; `rayft schema` lists every field."
        ) from None


def dump_config(config: RunConfig) -> str:
    """Return the whole resolved config as YAML that loads to the same config."""
    return write_yaml(config.model_dump(mode="json"))


def json_schema(section: type[Section] = RunConfig) -> str:
    """Return the JSON Schema of a config file, for editors; that of a run if no other is given."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **section.model_json_schema()}
    return json.dumps(schema, indent=2)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set got {override!r}; it takes section.field=value.", "Example: --set train.epochs=3")
    value = read_yaml(text, f"--set {key}: {text!r}")
    node = raw
    for part in parts[:-1]:
        # An empty section of a YAML file reads as None.
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise ConfigError(
                f"--set {key}: {part!r} holds {show_value(node)}, so it has no fields.", "Name a field of a section."
            )
    node[parts[-1]] = value
