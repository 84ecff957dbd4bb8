"""Rules of this project on what any pod may do, and on who reaches it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from deploy.check.pods import Pod, pods_of, selects
from deploy.check.rules import Broken, Case, Table, rule

SAFETY_RULES: Table = []
_ALL: tuple[str, ...] = ()
_RAY = ("RayCluster", "RayJob", "RayService")
_HOUSE = "docs/deploy.md"
_PSS = "Kubernetes' Pod Security Standards, restricted"
_SECRET_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIAL|(^|_)KEY|AUTH$")
# A key of AWS; user and password in a URI; a PEM key.
_SECRET_VALUE = re.compile(r"\bA[KS]IA[0-9A-Z]{16}\b|://[^/\s:@]+:[^/\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY")


@rule(SAFETY_RULES, "probes", _ALL, "What hangs is neither seen nor replaced.", _HOUSE)
def _probes(case: Case) -> Broken:
    for pod in pods_of(case):
        for at, container in pod.containers if pod.stays else ():
            for probe in ("readinessProbe", "livenessProbe"):
                if not container.get(probe):
                    yield f"{at}.{probe}", "is missing; every container that stays has both probes.", "Add it."


@rule(SAFETY_RULES, "resources", _ALL, "A pod without them starves its neighbours, or is starved.", _HOUSE)
def _resources(case: Case) -> Broken:
    owned = [place for pod in pods_of(case) for place in pod.every_container]
    if (options := case.cluster.get("autoscalerOptions")) is not None:
        owned.append((f"{case.cluster_at}.autoscalerOptions", options))
    for at, container in owned:
        for part in ("requests", "limits"):
            for name in ("cpu", "memory"):
                if name not in ((container.get("resources") or {}).get(part) or {}):
                    yield f"{at}.resources.{part}.{name}", "is missing.", "Set it."


@rule(SAFETY_RULES, "read-only-root", _ALL, "Whoever breaks in must not be able to change the program.", _HOUSE)
def _read_only_root(case: Case) -> Broken:
    for at, context in _contexts(case):
        if context.get("readOnlyRootFilesystem") is not True:
            yield (
                f"{at}.securityContext.readOnlyRootFilesystem",
                (f"is {context.get('readOnlyRootFilesystem')!r}; it must be true."),
                "Set it, and mount an emptyDir where it writes.",
            )


@rule(SAFETY_RULES, "privileges", _ALL, "The namespace refuses the pod otherwise.", _PSS)
def _privileges(case: Case) -> Broken:
    for at, context in _contexts(case):
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{at}.securityContext.allowPrivilegeEscalation", "must be false.", "Set it."
        if (context.get("capabilities") or {}).get("drop") != ["ALL"]:
            yield f"{at}.securityContext.capabilities.drop", "must be [ALL].", "Set it."
        if context.get("privileged"):
            yield f"{at}.securityContext.privileged", "is true.", "Take it out."
    for pod in pods_of(case):
        for name in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(name):
                yield f"{pod.at}.{name}", "is true.", "Take it out."
        for number, volume in enumerate(pod.spec.get("volumes") or ()):
            if "hostPath" in volume:
                yield f"{pod.at}.volumes[{number}].hostPath", "reaches into the node.", "Use a claim."


@rule(SAFETY_RULES, "non-root", _ALL, "Root in a container is root on the node, one bug later.", _PSS)
def _non_root(case: Case) -> Broken:
    for pod in pods_of(case):
        outer = pod.spec.get("securityContext") or {}
        if (outer.get("seccompProfile") or {}).get("type") != "RuntimeDefault":
            yield f"{pod.at}.securityContext.seccompProfile.type", "must be RuntimeDefault.", "Set it."
        for at, container in pod.every_container:
            context = {**outer, **(container.get("securityContext") or {})}
            if context.get("runAsNonRoot") is not True or context.get("runAsUser", 0) == 0:
                yield (
                    f"{at}.securityContext",
                    "must have runAsNonRoot: true and a runAsUser above 0.",
                    ("Set them there, or for the whole pod."),
                )


@rule(SAFETY_RULES, "api-token", _ALL, "A pod that is broken into must not be able to ask Kubernetes.", _HOUSE)
def _api_token(case: Case) -> Broken:
    for pod in pods_of(case):
        needed = pod.ray == "head" and case.autoscales
        if pod.spec.get("automountServiceAccountToken") is not needed:
            why = "its autoscaler asks for pods" if needed else "nothing in it asks Kubernetes"
            yield f"{pod.at}.automountServiceAccountToken", f"must be {str(needed).lower()}: {why}.", "Set it."


@rule(SAFETY_RULES, "plain-secrets", _ALL, "Manifests are read by many, and kept for ever.", _HOUSE)
def _plain_secrets(case: Case) -> Broken:
    if case.resource.kind == "Secret":
        yield "", "is a Secret among the manifests.", "Create it by hand, or from your secret store; name it only."
    for pod in pods_of(case):
        for at, container in pod.every_container:
            for number, entry in enumerate(container.get("env") or ()):
                if entry.get("value") and _SECRET_NAME.search(entry["name"].upper()):
                    yield f"{at}.env[{number}]", f"{entry['name']} stands here in the open.", "Use secretKeyRef."
    for path, text in _texts(case.resource.tree, ""):
        if _SECRET_VALUE.search(text):
            yield path, "holds what looks like a key or a password.", "Put it into a Secret."


@rule(SAFETY_RULES, "token", _RAY, "Ray runs whatever code it is sent: without a token, by anybody.", _HOUSE)
def _token(case: Case) -> Broken:
    if case.resource.kind == "RayJob" and "rayClusterSpec" not in case.spec:
        return
    options = case.cluster.get("authOptions") or {}
    if options.get("mode") != "token":
        yield f"{case.cluster_at}.authOptions.mode", f"is {options.get('mode')!r}; it must be 'token'.", "Set it."
    elif not options.get("secretName") and not options.get("enableK8sTokenAuth"):
        yield (
            f"{case.cluster_at}.authOptions.secretName",
            "is empty: each new cluster would have a new token.",
            ("Name a Secret that has auth_token."),
        )


@rule(SAFETY_RULES, "network", _ALL, "Ray's ports answer whoever reaches them.", _HOUSE)
def _network(case: Case) -> Broken:
    for pod in pods_of(case):
        for way in ("Ingress", "Egress"):
            if not any(way in types and selects(selector, pod.labels) for types, selector in _policies(case)):
                yield (
                    pod.at,
                    f"has no NetworkPolicy for {way} that selects {pod.labels}.",
                    ("Give it the label app.kubernetes.io/part-of: rayft, or write one."),
                )


@rule(SAFETY_RULES, "exposed", _ALL, "From outside of the cluster anybody can knock.", _HOUSE)
def _exposed(case: Case) -> Broken:
    for at, kind, labels in _services(case):
        if kind not in ("NodePort", "LoadBalancer"):
            continue
        policies = [selector for types, selector in _policies(case) if "Ingress" in types]
        if not any(selects(selector, labels) for selector in policies):
            yield at, f"is {kind} without a NetworkPolicy for its pods {labels}.", "Write one, or use ClusterIP."
    if (case.cluster.get("headGroupSpec") or {}).get("enableIngress"):
        yield f"{case.cluster_at}.headGroupSpec.enableIngress", "puts the dashboard in the open.", "Take it out."


def _contexts(case: Case) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the security context of every container, the autoscaler's included."""
    for pod in pods_of(case):
        for at, container in pod.every_container:
            yield at, container.get("securityContext") or {}
    if case.autoscales:
        options = case.cluster.get("autoscalerOptions") or {}
        yield f"{case.cluster_at}.autoscalerOptions", options.get("securityContext") or {}


def _policies(case: Case) -> Iterator[tuple[list[str], dict[str, Any]]]:
    for resource in case.beside:
        if resource.kind == "NetworkPolicy":
            spec = resource.tree.get("spec") or {}
            yield spec.get("policyTypes") or ["Ingress"], spec.get("podSelector") or {}


def _services(case: Case) -> Iterator[tuple[str, str | None, dict[str, str]]]:
    """Yield each Service of an object: path of its type, the type, labels of its pods."""
    if case.resource.kind == "Service":
        yield "spec.type", case.spec.get("type"), case.spec.get("selector") or {}
    pods: list[Pod] = list(pods_of(case))
    for pod in pods:
        if pod.ray == "head":
            head = case.cluster.get("headGroupSpec") or {}
            yield f"{case.cluster_at}.headGroupSpec.serviceType", head.get("serviceType"), pod.labels
            own = (head.get("headService") or {}).get("spec") or {}
            yield f"{case.cluster_at}.headGroupSpec.headService.spec.type", own.get("type"), pod.labels
        elif pod.ray == "worker" and "serveService" in case.spec:
            own = case.spec["serveService"].get("spec") or {}
            yield "spec.serveService.spec.type", own.get("type"), pod.labels


def _texts(tree: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from _texts(value, f"{path}.{name}" if path else str(name))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _texts(value, f"{path}[{number}]")
    elif isinstance(tree, str):
        yield path, tree
