"""Pods that an object makes, whatever kind it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deploy.check.rules import Case

_TEMPLATED = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")


@dataclass(frozen=True)
class Pod:
    """One kind of pod.

    Attributes:
        spec: Its spec.
        at: Path of the spec within the object.
        labels: As it will have them, those that the operator sets included.
        stays: Whether it runs until it is ended.
        ray: ``head``, ``worker``, or empty for a pod that is no node of Ray.
    """

    spec: dict[str, Any]
    at: str
    labels: dict[str, str]
    stays: bool = True
    ray: str = ""

    @property
    def containers(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each with its path; Ray's is the first of a node."""
        for number, container in enumerate(self.spec.get("containers") or ()):
            yield f"{self.at}.containers[{number}]", container

    @property
    def every_container(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield those that prepare the pod, too."""
        yield from self.containers
        for number, container in enumerate(self.spec.get("initContainers") or ()):
            yield f"{self.at}.initContainers[{number}]", container


def pods_of(case: Case) -> Iterator[Pod]:
    """Yield the pods of an object."""
    for number, group in enumerate(case.groups):
        node = "worker" if number else "head"
        labels = {**group.labels, "ray.io/node-type": node, "ray.io/is-ray-node": "yes"}
        yield Pod(group.pod, f"{group.at}.template.spec", labels, ray=node)
    if (template := case.spec.get("submitterPodTemplate")) is not None:
        labels = (template.get("metadata") or {}).get("labels") or {}
        yield Pod(template.get("spec") or {}, "spec.submitterPodTemplate.spec", labels, stays=False)
    if case.resource.kind in _TEMPLATED:
        template = case.spec.get("template") or {}
        labels = (template.get("metadata") or {}).get("labels") or {}
        yield Pod(template.get("spec") or {}, "spec.template.spec", labels, stays=case.resource.kind != "Job")


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Tell whether a label selector takes a pod."""
    for name, value in (selector.get("matchLabels") or {}).items():
        if labels.get(name) != value:
            return False
    for entry in selector.get("matchExpressions") or ():
        found, among = labels.get(entry["key"]), entry.get("values") or ()
        hit = {
            "In": found in among,
            "NotIn": found not in among,
            "Exists": found is not None,
            "DoesNotExist": found is None,
        }[entry["operator"]]
        if not hit:
            return False
    return True
