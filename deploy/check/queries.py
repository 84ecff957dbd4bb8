"""Finds metrics and labels in Prometheus' queries that rayft does not export."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import promql_parser as promql
import yaml

from deploy.check.findings import CheckError, Finding, shown
from deploy.check.kustomize import shorter
from rayft.observe.names import METRICS, scraped_name

# What Prometheus adds to whatever it scrapes, by prometheus.yml here.
_TARGET_LABELS = {"pod", "job", "instance", "le"}
_SERIES = {"histogram": ("_bucket", "_sum", "_count")}
# The query of a variable in Grafana: label_values(METRIC, LABEL).
_VALUES = re.compile(r"label_values\((.+),\s*(\w+)\)")


def exported() -> dict[str, set[str]]:
    """Return the labels of each series, by its name at the target where Prometheus scrapes it."""
    return {
        scraped_name(name) + ending: set(metric.labels)
        for name, metric in METRICS.items()
        for ending in _SERIES.get(metric.kind, ("",))
    }


def check_queries(file: Path) -> list[Finding]:
    """Return what is wrong with the queries of a rule file or dashboard.

    Raises:
        CheckError: The file is neither.
    """
    try:
        queries = list(queries_of(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise CheckError(
            f"{file} is no rule file of Prometheus and no dashboard of Grafana: {shown(error)}.",
            "Give a file with groups of alerts (YAML), or with panels and their targets (JSON).",
        ) from None
    known = exported()
    return [
        Finding(shorter(file), name, problem, "`rayft schema --metrics` lists names and labels.", "query")
        for name, query in queries
        for problem in problems_of(query, known)
    ]


def queries_of(file: Path) -> Iterator[tuple[str, str]]:
    """Yield name and expression of each rule of a rule file, or of each panel and variable of a dashboard (JSON)."""
    if file.suffix == ".json":
        tree = json.loads(file.read_text(encoding="utf-8"))
        for panel in tree["panels"]:
            yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))
        for variable in tree.get("templating", {}).get("list", ()):
            if variable["type"] == "query":
                yield f"${variable['name']}", _VALUES.sub(r"sum by (\2) (\1)", variable["query"])
        return
    for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]:
        yield from ((rule.get("alert") or rule["record"], rule["expr"]) for rule in group["rules"])


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
