"""Finds metrics and labels in Prometheus' queries that nothing exports."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

# What Prometheus adds to whatever it scrapes, by prometheus.yml here.
_TARGET_LABELS = {"pod", "job", "instance", "le"}


def queries_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yield name and expression of each alert of a rule file, or of each panel of a dashboard (JSON)."""
    if file.suffix == ".json":
        for panel in json.loads(file.read_text(encoding="utf-8"))["panels"]:
            yield from ((panel["title"], target["expr"]) for target in panel["targets"])
        return
    for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
        yield from ((rule["alert"], rule["expr"]) for rule in group["rules"])


def problems_of(expression: str, exported: Mapping[str, set[str]]) -> list[str]:
    """Return what is wrong with a query.

    Args:
        expression: PromQL.
        exported: Labels of each series' name.
    """
    try:
        tree = promql.parse(expression)
    except ValueError as error:
        return [f"is no PromQL: {error}"]
    return list(_problems(tree, exported))


def _problems(tree: Any, exported: Mapping[str, set[str]]) -> Iterator[str]:
    labels: set[str] = set()
    for selector in _selectors(tree):
        if selector.name not in exported:
            yield f"asks for {selector.name!r}, which nothing exports"
            continue
        known = exported[selector.name] | _TARGET_LABELS
        labels |= known
        for matcher in selector.matchers.matchers:
            if matcher.name not in known:
                yield f"matches the label {matcher.name!r}; {selector.name} has {', '.join(sorted(known))}"
    for name in _grouped(tree):
        if labels and name not in labels:
            yield f"groups by {name!r}; there are {', '.join(sorted(labels))}"


def _children(tree: Any) -> Iterator[Any]:
    if isinstance(tree, promql.VectorSelector | promql.MatrixSelector):
        return
    for name in ("expr", "lhs", "rhs"):
        if (child := getattr(tree, name, None)) is not None:
            yield child
    yield from getattr(tree, "args", None) or ()


def _selectors(tree: Any) -> Iterator[Any]:
    if isinstance(tree, promql.VectorSelector):
        yield tree
    elif isinstance(tree, promql.MatrixSelector):
        yield tree.vector_selector
    for child in _children(tree):
        yield from _selectors(child)


def _grouped(tree: Any) -> Iterator[str]:
    if isinstance(tree, promql.AggregateExpr) and tree.modifier is not None:
        yield from tree.modifier.labels
    for child in _children(tree):
        yield from _grouped(child)
