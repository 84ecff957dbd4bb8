"""YAML text into plain values, by the rules of YAML 1.2."""

from __future__ import annotations

import re
from typing import Any, ClassVar, NoReturn

import yaml

from rayft.errors import ConfigError

# Far above any honest config; a nest of thousands would exhaust Python's stack instead.
_MAX_NESTING = 32


def read_yaml(text: str, name: str) -> Any:
    """Return the value of one YAML document: mappings, lists, text, numbers, bools, None.

    Unlike YAML 1.1, ``1e-3`` is a number, and ``no``, ``1:30`` or a date are text. Duplicate keys,
    keys that are not text, aliases and tags are refused.

    Args:
        text: The document.
        name: What the text is, for messages.

    Raises:
        ConfigError: The text is not such a document; names line and column.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "its start"
        raise ConfigError(
            f"{name} is not valid YAML for a config, at {place}: {error.problem or error.context}.",
            "Correct that place; text with special characters needs quotes.",
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML text: {' '.join(str(error).split())}.", "Give a text file.") from None


def write_yaml(value: Any) -> str:
    """Return YAML text that ``read_yaml``, and readers of YAML 1.1 as well, turn into the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Loader(yaml.SafeLoader):
    """Reads the core schema of YAML 1.2 and nothing beyond."""

    yaml_implicit_resolvers = {}  # Not those of YAML 1.1.
    yaml_constructors: ClassVar[dict[str | None, Any]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.nesting = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        # A few aliases of aliases stand for billions of values.
        if self.check_event(yaml.AliasEvent):
            self.refuse("aliases (*name) are not allowed; write the value out", self.peek_event())
        self.nesting += 1
        if self.nesting > _MAX_NESTING:
            self.refuse(f"more than {_MAX_NESTING} levels of nesting", self.peek_event())
        node = super().compose_node(parent, index)
        self.nesting -= 1
        return node

    def mapping(self, node: yaml.Node) -> dict[str, Any]:
        if not isinstance(node, yaml.MappingNode):
            self.refuse("not a mapping", node)
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                self.refuse(f"key {key!r} is not text", key_node)
            if key in result:
                self.refuse(f"key {key!r} stands here a second time", key_node)
            result[key] = self.construct_object(value_node, deep=True)
        return result

    def number(self, node: yaml.ScalarNode) -> int | float:
        text = str(self.construct_scalar(node))
        try:
            if node.tag.endswith("float"):
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        except ValueError:
            # A tag written by hand, or more digits than Python converts.
            self.refuse(f"{text[:40]!r} is not a number", node)

    def refuse(self, problem: str, place: Any) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of YAML 1.1 or 1.2 would take for something else."""

    yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "tag:yaml.org,2002:int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _tag, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), _first)

_Loader.yaml_constructors = {
    "tag:yaml.org,2002:null": lambda loader, node: None,
    "tag:yaml.org,2002:bool": lambda loader, node: str(node.value).lower() == "true",
    "tag:yaml.org,2002:int": _Loader.number,
    "tag:yaml.org,2002:float": _Loader.number,
    "tag:yaml.org,2002:str": _Loader.construct_scalar,
    "tag:yaml.org,2002:seq": lambda loader, node: loader.construct_sequence(node, deep=True),
    "tag:yaml.org,2002:map": _Loader.mapping,
    # Every other tag, such as !!python/object, ends here.
    None: lambda loader, node: loader.refuse(f"tag {node.tag!r} is not allowed", node),
}
