"""The page at /docs: the OpenAPI document for people, without a script or anything from elsewhere."""

from __future__ import annotations

import html
import json
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; }
h2 { border-top: 1px solid var(--line); padding-top: 1rem; font-size: 1.05rem; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { overflow-x: auto; border: 1px solid var(--line); border-radius: 4px; padding: .5rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; vertical-align: top; padding: .15rem 1rem .15rem 0; }
"""


def docs_page(document: dict[str, Any]) -> str:
    """Return the page of an OpenAPI document, HTML."""
    operations = [
        _operation(path, method, operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [
        f"<details><summary><code>{html.escape(name)}</code></summary>{_json(schema)}</details>"
        for name, schema in document["components"]["schemas"].items()
    ]
    title = f"{document['info']['title']} {document['info']['version']}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}: API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body><main>'
        f"<h1>{html.escape(title)}</h1><p>{_prose(document['info']['description'])} "
        'For machines: <a href="/openapi.json">openapi.json</a>.</p>'
        f"{''.join(operations)}<h2>Schemas</h2>{''.join(schemas)}</main></body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {html.escape(path)}</code></h2><p>{_prose(operation['summary'])}.</p>"]
    if "description" in operation:
        parts.append(f"<p>{_prose(operation['description'])}</p>")
    shared = document["components"]["parameters"]
    given = (
        shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each for each in operation.get("parameters", [])
    )
    rows = [(f"{each['name']} ({each['in']})", _described(each)) for each in given]
    parts.append(_table("Parameters", rows))
    for media, body in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body <code>{html.escape(media)}</code>{_schema_name(body)}</p>")
        if "example" in body:
            parts.append(_json(body["example"]))
    responses = document["components"]["responses"]
    answers = [
        (status, (responses[status] if "$ref" in answer else answer)["description"])
        for status, answer in operation["responses"].items()
    ]
    parts.append(_table("Answers", answers))
    return "".join(parts)


def _described(parameter: dict[str, Any]) -> str:
    values = parameter["schema"].get("enum", [])
    return " ".join([parameter.get("description", ""), *(f"`{value}`" for value in values)])


def _schema_name(body: dict[str, Any]) -> str:
    name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f": <code>{html.escape(name)}</code>" if name else ""


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    if not rows:
        return ""
    body = "".join(f'<tr><th scope="row"><code>{html.escape(a)}</code></th><td>{_prose(b)}</td></tr>' for a, b in rows)
    return f"<table><caption>{title}</caption>{body}</table>"


def _json(content: Any) -> str:
    # A region that scrolls must be reached from the keyboard.
    return f'<pre tabindex="0">{html.escape(json.dumps(content, indent=1))}</pre>'


def _prose(text: str) -> str:
    """Escape, and set what stands between backticks as code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
