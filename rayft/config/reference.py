"""The reference of all fields as Markdown, from the JSON Schema of a config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from rayft.config.problems import schema_in_words, show_value
from rayft.config.run import RunConfig
from rayft.config.serve import ServeConfig

_TITLE = """# Config reference

Every field of a config file, made by `rayft schema --markdown` from the schema that also checks the file. A field
that is not given has its default. `--set section.field=value` overrides one; rules across fields are told by
`rayft validate CONFIG`.
"""


_SERVE_TITLE = """# Settings of an endpoint

Every field of the file that `rayft serve --config` reads, made by `rayft schema --serve --markdown`. A field that is
not given has its default. Flags go over the file, `--set section.field=value` over both.
"""


def reference() -> str:
    """Return the page: a table for each section, in the order of the file."""
    return _page(_TITLE, RunConfig)


def serve_reference() -> str:
    """Return the same of the settings of an endpoint."""
    return _page(_SERVE_TITLE, ServeConfig)


def _page(title: str, section: type[BaseModel]) -> str:
    schema = section.model_json_schema()
    return "\n".join([title, *_section("", schema, schema["$defs"])])


def _section(path: str, section: dict[str, Any], definitions: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a section, then those of the sections in it."""
    if path:
        yield f"{'#' * min(2 + path.removesuffix('.*').count('.'), 4)} {path}\n\n{_plain(section['description'])}\n"
    yield "| field | allowed | default | meaning |\n|---|---|---|---|"
    inner: list[tuple[str, dict[str, Any]]] = []
    required = section.get("required", [])
    for name, field in section["properties"].items():
        default = "required" if name in required else _default(field.get("default", {}))
        found = _inner(field)
        if found is None:
            allowed = schema_in_words({key: value for key, value in field.items() if key != "description"})
        else:
            reference_name, kind, suffix = found
            below = f"{path}.{name}{suffix}".lstrip(".")
            inner.append((below, definitions[reference_name]))
            allowed = f"{kind} [{below}](#{_anchor(below)})"
            if name not in required and field.get("default", {}):
                # That of a section is in its own table.
                default = ""
        yield f"| `{name}` | {_plain(allowed)} | {_plain(default)} | {_plain(field.get('description', ''))} |"
    yield ""
    for below, definition in inner:
        yield from _section(below, definition, definitions)


def _inner(field: dict[str, Any]) -> tuple[str, str, str] | None:
    """Return (definition, kind, suffix of the path) of a field that holds sections."""
    for choice in field.get("anyOf", [field]):
        for held, kind, suffix in (
            (choice, "section", ""),
            (choice.get("items", {}), "list of", "[]"),
            (choice.get("additionalProperties", {}), "mapping of names to", ".*"),
        ):
            if isinstance(held, dict) and "$ref" in held:
                return held["$ref"].rpartition("/")[2], kind, suffix
    return None


def _default(value: Any) -> str:
    return "empty" if value is None else f"`{show_value(value)}`"


def _anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    return "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "_-")


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
