"""Words for what is wrong in a config."""

from __future__ import annotations

import difflib
import json
import types
import typing
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from rayft.credentials import ADVICE, without_password

# Every pattern of a field needs its words here.
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
IMPORT_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
# The kind of problem that a password in an address is.
PASSWORD = "password_in_address"
_PATTERNS = {
    NAME_PATTERN: "of at most 100 letters, digits and _ . - that starts with a letter or digit",
    IMPORT_PATTERN: "of the form module:function",
}
_BOUNDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}


def describe_problem(problem: Any, raw: Any, section: type[BaseModel]) -> str:
    """Say which field is wrong, what it holds, and what it may hold.

    Args:
        problem: One item of ``ValidationError.errors()``.
        raw: The plain mapping that was checked.
        section: The root of the tree it was checked against.
    """
    path: list[str] = []
    value = raw
    field: FieldInfo | None = None
    for part in problem["loc"]:
        if isinstance(part, int) and field is not None:
            # An item of a list of sections.
            path[-1] += f"[{part}]"
            value = value[part] if isinstance(value, (list, tuple)) and part < len(value) else None
            continue
        path.append(str(part))
        field = section.model_fields.get(str(part))
        value = value.get(part) if isinstance(value, dict) else None
        inner = _section_in(field.annotation) if field is not None else None
        if inner is None:
            break
        section = inner
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        known = list(section.model_fields)
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        return f"{where}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}.")
    # Of a list of fixed length that is too short, an item is missing; the field is there.
    if problem["type"] == "missing" and value is None:
        return f"{where}: is required."
    if problem["type"] == PASSWORD:
        return f"{where}: {show_value(value)} holds a password, which would be written into the run's folder. {ADVICE}"
    if field is None or (problem["type"] == "value_error" and _section_in(field.annotation)):
        return f"{where}: {problem['ctx']['error']}." if where else f"{problem['ctx']['error']}."
    if _section_in(field.annotation):
        # A field of the tree holds one section or a list of them; an item of such a list is one again.
        kind = "a list of sections" if _is_list(field.annotation) and not path[-1].endswith("]") else "a section"
        return f"{where}: got {show_value(value)}; it is {kind} with the fields {', '.join(section.model_fields)}."
    return f"{where}: got {show_value(value)}; allowed: {_allowed(field)}."


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, may hold, or holds a list of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if isinstance(annotation, types.UnionType) or _is_list(annotation):
        return next(filter(None, map(_section_in, typing.get_args(annotation))), None)
    return None


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (tuple, list)


def show_value(value: Any) -> str:
    """Return a plain value as a user would write it, shortened."""
    text = "nothing" if value is None else without_password(json.dumps(value, ensure_ascii=False, default=repr))
    return text if len(text) <= 120 else f"{text[:120]}..."


def _allowed(field: FieldInfo) -> str:
    """Put a field's type and bounds into words."""
    annotated: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return schema_in_words(TypeAdapter(annotated).json_schema())


def schema_in_words(schema: dict[str, Any]) -> str:
    """Return what the JSON Schema of a field allows, as a person would say it."""
    if "anyOf" in schema:
        return " or ".join(schema_in_words(choice) for choice in schema["anyOf"])
    if "$ref" in schema:
        return "a section of its own"
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema["type"] == "array" and "prefixItems" in schema:
        return f"a list [{', '.join(schema_in_words(item) for item in schema['prefixItems'])}]"
    if schema["type"] == "array":
        return f"a list, each item {schema_in_words(schema['items'])}"
    if schema["type"] == "object":
        return f"a mapping of names to {schema_in_words(schema['additionalProperties'])}"
    words = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    text = words.get(schema["type"], "nothing")
    bounds = [f"{phrase} {schema[key]}" for key, phrase in _BOUNDS.items() if key in schema]
    if "pattern" in schema:
        bounds.append(_PATTERNS[schema["pattern"]])
    if "minLength" in schema:
        bounds.append("that is not empty")
    return " ".join([text, ", ".join(bounds)]).strip()
