"""Rules of the KubeRay operator on RayServices; sources as in kuberay_cluster."""

from __future__ import annotations

import re

from deploy.check.rules import Broken, Case, Table, rule

SERVICE_RULES: Table = []
_SERVICE = ("RayService",)
_UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
_TIMEOUT = "ray.io/initializing-timeout"


@rule(SERVICE_RULES, "service-upgrade", _SERVICE, "The schema takes any text.", "ValidateRayServiceSpec")
def _service_upgrade(case: Case) -> Broken:
    kind = (case.spec.get("upgradeStrategy") or {}).get("type")
    if kind is not None and kind not in _UPGRADES:
        yield "spec.upgradeStrategy.type", f"is {kind!r}; allowed are {', '.join(_UPGRADES)}.", "Take one of those."


@rule(SERVICE_RULES, "incremental-upgrade", _SERVICE, "Two clusters share the traffic, step by step.",
      "ValidateClusterUpgradeOptions")  # fmt: skip
def _incremental_upgrade(case: Case) -> Broken:
    strategy = case.spec.get("upgradeStrategy") or {}
    if strategy.get("type") != "NewClusterWithIncrementalUpgrade":
        return
    at, options = "spec.upgradeStrategy.clusterUpgradeOptions", strategy.get("clusterUpgradeOptions")
    if not case.autoscales:
        yield f"{case.cluster_at}.enableInTreeAutoscaling", "must be true for an incremental upgrade.", "Set it."
    if options is None:
        yield at, "is missing.", "Give gatewayClassName, stepSizePercent, intervalSeconds."
        return
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not 0 <= surge <= 100:
        yield f"{at}.maxSurgePercent", f"is {surge}; allowed are 0 to 100.", "Correct it."
    if not 0 <= step <= surge:
        yield f"{at}.stepSizePercent", f"is {step}; allowed are 0 to maxSurgePercent, {surge}.", "Correct it."
    if options.get("intervalSeconds", 0) <= 0:
        yield f"{at}.intervalSeconds", "must be above 0.", "Raise it."
    if not options.get("gatewayClassName"):
        yield f"{at}.gatewayClassName", "is empty.", "Name a class of gateways."


@rule(SERVICE_RULES, "serve-port", _SERVICE, "The Service's ports are those that the head calls so.",
      "BuildServeService in controllers/ray/common/service.go")  # fmt: skip
def _serve_port(case: Case) -> Broken:
    ports = [port.get("name") for container in case.groups[0].containers[:1] for port in container.get("ports") or ()]
    if "serve" not in ports and "serveService" not in case.spec:
        yield (
            f"{case.groups[0].at}.template.spec.containers[0].ports",
            f"are {ports}; one must be 'serve'.",
            ("Add it, with the endpoint's port."),
        )


@rule(SERVICE_RULES, "service-names", _SERVICE, "The operator names the head's Service itself.",
      "ValidateRayServiceSpec, validateInitializingTimeout")  # fmt: skip
def _service_names(case: Case) -> Broken:
    head = case.groups[0]
    if ((head.tree.get("headService") or {}).get("metadata") or {}).get("name"):
        yield f"{head.at}.headService.metadata.name", "must not be set.", "Take it out."
    if (delay := case.spec.get("rayClusterDeletionDelaySeconds", 0)) < 0:
        yield "spec.rayClusterDeletionDelaySeconds", f"is {delay}; at least 0.", "Raise it."
    timeout = (case.metadata.get("annotations") or {}).get(_TIMEOUT)
    if timeout and not re.fullmatch(r"[1-9]\d*|(\d+(\.\d+)?(h|m|s|ms))+", timeout):
        yield f"metadata.annotations {_TIMEOUT}", f"is {timeout!r}; allowed are 30m, 1h or seconds.", "Correct it."
