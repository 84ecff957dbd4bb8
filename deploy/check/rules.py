"""What a rule is: a name, a reason, a source, and a function that finds where an object breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from deploy.check.findings import Finding
from deploy.check.kustomize import Resource

# Path within the object, what is wrong, what to do.
Broken = Iterator[tuple[str, str, str]]
_CLUSTER_AT = {"RayCluster": "spec", "RayJob": "spec.rayClusterSpec", "RayService": "spec.rayClusterConfig"}
QUANTITY = re.compile(r"^(\d+(?:\.\d+)?)(m|[kKMGTPE]i?|)$")
_FACTORS = {"": 1.0, "m": 1e-3, "k": 1e3, "K": 1e3} | {
    f"{letter}{suffix}": base**power
    for power, letter in enumerate("KMGTPE", 1)
    for suffix, base in (("i", 1024.0), ("", 1000.0))
    if (letter, suffix) != ("K", "")
}


@dataclass(frozen=True)
class Group:
    """Head or workers of a Ray cluster.

    Attributes:
        tree: A headGroupSpec or an entry of workerGroupSpecs.
        at: Its path within the object.
        name: ``head``, or the group's.
    """

    tree: dict[str, Any]
    at: str
    name: str

    @property
    def pod(self) -> dict[str, Any]:
        """The pod's spec."""
        return (self.tree.get("template") or {}).get("spec") or {}

    @property
    def labels(self) -> dict[str, str]:
        """Those of the pod."""
        return ((self.tree.get("template") or {}).get("metadata") or {}).get("labels") or {}

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of the pod; Ray's is the first."""
        return self.pod.get("containers") or []

    @property
    def env(self) -> dict[str, dict[str, Any]]:
        """Environment of Ray's container, by name."""
        return {entry["name"]: entry for entry in (self.containers or [{}])[0].get("env") or ()}

    @property
    def params(self) -> dict[str, str]:
        """What `ray start` gets."""
        return self.tree.get("rayStartParams") or {}


@dataclass(frozen=True)
class Case:
    """One object, and all that are applied with it.

    Attributes:
        resource: The object.
        beside: All objects of the kustomization, itself included.
    """

    resource: Resource
    beside: tuple[Resource, ...] = ()

    @property
    def spec(self) -> dict[str, Any]:
        """The object's spec."""
        return self.resource.tree.get("spec") or {}

    @property
    def metadata(self) -> dict[str, Any]:
        """The object's metadata."""
        return self.resource.tree.get("metadata") or {}

    @property
    def cluster_at(self) -> str:
        """Path of the Ray cluster's spec."""
        return _CLUSTER_AT.get(self.resource.kind, "")

    @property
    def cluster(self) -> dict[str, Any]:
        """Spec of the Ray cluster; empty where the object has none."""
        if self.resource.kind not in _CLUSTER_AT:
            return {}
        tree: dict[str, Any] = self.resource.tree
        for name in self.cluster_at.split("."):
            tree = tree.get(name) or {}
        return tree

    @property
    def groups(self) -> list[Group]:
        """The head, then the groups of workers."""
        if not self.cluster:
            return []
        head = Group(self.cluster.get("headGroupSpec") or {}, f"{self.cluster_at}.headGroupSpec", "head")
        return [head, *self.workers]

    @property
    def workers(self) -> list[Group]:
        """The groups of workers."""
        return [
            Group(tree, f"{self.cluster_at}.workerGroupSpecs[{number}]", str(tree.get("groupName")))
            for number, tree in enumerate(self.cluster.get("workerGroupSpecs") or ())
        ]

    @property
    def autoscales(self) -> bool:
        """Whether Ray's autoscaler changes the number of workers."""
        return bool(self.cluster.get("enableInTreeAutoscaling"))

    @property
    def autoscaler_v2(self) -> bool:
        """Whether it is the second version, by field or by the older variable."""
        options = self.cluster.get("autoscalerOptions") or {}
        given = self.groups[0].env.get("RAY_enable_autoscaler_v2", {}) if self.groups else {}
        return self.autoscales and (options.get("version") == "v2" or given.get("value") in ("1", "true"))


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: What findings and tests call it.
        kinds: Of objects that it looks at; empty is all.
        reason: What goes wrong without it.
        source: Who says so.
        look: Finds where an object breaks it.
    """

    name: str
    kinds: tuple[str, ...]
    reason: str
    source: str
    look: Callable[[Case], Broken]

    def check(self, case: Case) -> Iterator[Finding]:
        """Find where an object breaks this rule."""
        if self.kinds and case.resource.kind not in self.kinds:
            return
        where = f"{case.resource.kind}/{case.resource.name}"
        for path, problem, fix in self.look(case):
            yield Finding(case.resource.file, f"{where} {path}", problem, fix, self.name)


Table = list[Rule]


def rule(table: Table, name: str, kinds: tuple[str, ...], reason: str, source: str) -> Callable[[Any], Any]:
    """Put a function into a table of rules."""

    def put(look: Callable[[Case], Broken]) -> Callable[[Case], Broken]:
        table.append(Rule(name, kinds, reason, source, look))
        return look

    return put


def version(text: Any) -> tuple[int, ...] | None:
    """Return a version's numbers, or None where it has no such form."""
    match = re.fullmatch(r"v?(\d+)\.(\d+)(?:\.(\d+))?.*", str(text or ""))
    return None if match is None else tuple(int(number or 0) for number in match.groups())


def quantity(text: Any) -> float:
    """Return a Kubernetes quantity such as ``500m`` or ``8Gi`` as a number; 0 where there is none."""
    match = QUANTITY.fullmatch(str(text)) if text is not None else None
    return 0.0 if match is None else float(match[1]) * _FACTORS[match[2]]
