"""Rules of the KubeRay operator on Ray clusters, which their schema cannot say.

Sources are functions of ray-operator/controllers/ray/utils/validation.go at KubeRay 1.7, if nothing else is named. The
operator refuses such an object after it was accepted, with an event that nobody sees who does not look for it.
"""

from __future__ import annotations

import re

from deploy.check.rules import Broken, Case, Table, rule, version

CLUSTER_RULES: Table = []
_RAY = ("RayCluster", "RayJob", "RayService")
# Names of services are made from them: 63 characters less "-serve-svc", and less 6 for a generated suffix.
_LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_OPERATORS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")
_SPEC = "ValidateRayClusterSpec"


@rule(CLUSTER_RULES, "name", _RAY, "Names of pods and services are made from it.", "ValidateRayClusterMetadata")
def _name(case: Case) -> Broken:
    name, longest = case.resource.name, _LONGEST[case.resource.kind]
    if len(name) > longest:
        yield "metadata.name", f"is {len(name)} characters long; allowed are {longest}.", "Shorten it."
    if not _DNS.fullmatch(name):
        yield "metadata.name", f"is {name!r}; allowed are a-z, 0-9 and '-', a letter first.", "Rename it."


@rule(CLUSTER_RULES, "containers", _RAY, "Ray runs in the first container of a pod.", _SPEC)
def _containers(case: Case) -> Broken:
    for group in case.groups:
        if not group.containers:
            yield f"{group.at}.template.spec.containers", "is empty; Ray's container must be there.", "Add it."


@rule(CLUSTER_RULES, "group-resources", _RAY, "Two places would say what a node has.", "validateRayGroupResources")
def _group_resources(case: Case) -> Broken:
    for group in case.groups:
        both = [name for name in ("num-cpus", "num-gpus", "memory", "resources") if group.params.get(name)]
        if both and group.tree.get("resources"):
            yield f"{group.at}.resources", f"is set beside rayStartParams.{both[0]}; one is allowed.", "Keep one."


@rule(CLUSTER_RULES, "group-labels", _RAY, "Labels of a group become labels of pods.", "validateRayGroupLabels")
def _group_labels(case: Case) -> Broken:
    for group in case.groups:
        if "labels" in group.params:
            yield f"{group.at}.rayStartParams.labels", "is not supported.", f"Write {group.at}.labels."
        for key, value in (group.tree.get("labels") or {}).items():
            if not _LABEL.fullmatch(key.rpartition("/")[2]) or (value and not _LABEL.fullmatch(str(value))):
                yield f"{group.at}.labels", f"has {key!r}: {value!r}, which is no Kubernetes label.", "Rename it."


@rule(CLUSTER_RULES, "pod-labels", _RAY, "The operator sets them itself, and ignores others' values.",
      "labelPod in controllers/ray/common/pod.go")  # fmt: skip
def _pod_labels(case: Case) -> Broken:
    for group in case.groups:
        for name in sorted({"ray.io/cluster", "ray.io/group", "ray.io/node-type"} & set(group.labels)):
            yield f"{group.at}.template.metadata.labels", f"has {name!r}, which is ignored.", "Take it out."


@rule(CLUSTER_RULES, "replicas", _RAY, "A group starts within its own bounds.", _SPEC)
def _replicas(case: Case) -> Broken:
    for group in case.workers:
        least, start, most = (group.tree.get(name) for name in ("minReplicas", "replicas", "maxReplicas"))
        if not case.autoscales and (least is None or most is None):
            yield group.at, "needs minReplicas and maxReplicas without autoscaling.", "Set both."
        if (least or 0) < 0 or (most or 0) < 0:
            yield group.at, f"has {least} to {most} replicas; neither may be below 0.", "Raise it."
        if least is not None and most is not None and least > most:
            yield f"{group.at}.minReplicas", f"is {least}, maxReplicas {most}.", "Lower the first, or raise the other."
        elif not (least or 0) <= (start or 0) <= (most if most is not None else 2**31):
            yield f"{group.at}.replicas", f"is {start or 0}; allowed are {least or 0} to {most}.", "Move it within."


@rule(CLUSTER_RULES, "gcs-ft-settings", _RAY, "Redis must be named in one place.", _SPEC)
def _gcs_ft_settings(case: Case) -> Broken:
    if not case.groups:
        return
    head, options = case.groups[0], case.cluster.get("gcsFaultToleranceOptions")
    notes = case.metadata.get("annotations") or {}
    container = f"{head.at}.template.spec.containers[0].env"
    if "redis-username" in head.params or "REDIS_USERNAME" in head.env:
        yield head.at, "sets Redis' user itself.", "Write gcsFaultToleranceOptions.redisUsername."
    if options is None:
        if "RAY_REDIS_ADDRESS" in head.env and notes.get("ray.io/ft-enabled") != "true":
            yield container, "has RAY_REDIS_ADDRESS without gcsFaultToleranceOptions.", "Write redisAddress there."
        return
    for name in sorted({"RAY_REDIS_ADDRESS", "REDIS_PASSWORD"} & set(head.env)):
        yield container, f"has {name} beside gcsFaultToleranceOptions.", "Keep the latter."
    if "redis-password" in head.params:
        yield f"{head.at}.rayStartParams", "has redis-password.", "Write gcsFaultToleranceOptions.redisPassword."
    for name in sorted({"ray.io/ft-enabled", "ray.io/external-storage-namespace"} & set(notes)):
        yield "metadata.annotations", f"has {name!r} beside gcsFaultToleranceOptions.", "Keep the latter."


@rule(CLUSTER_RULES, "gcs-ft-backend", _RAY, "Each backend has fields of its own.", "validateGcsFaultToleranceBackend")
def _gcs_ft_backend(case: Case) -> Broken:
    options = case.cluster.get("gcsFaultToleranceOptions")
    if options is None:
        return
    at = f"{case.cluster_at}.gcsFaultToleranceOptions"
    if options.get("backend", "redis") == "redis":
        if not options.get("redisAddress"):
            yield f"{at}.redisAddress", "is not set; without it the head has no place to remember.", "Name Redis."
        if "storage" in options:
            yield f"{at}.storage", "is for the backend 'rocksdb' alone.", "Take it out."
        return
    yield (
        f"{at}.backend",
        "'rocksdb' needs the feature gate GCSFaultToleranceEmbeddedStorage, off by default.",
        ("Use redis, or switch the gate on in the operator."),
    )
    for name in ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace"):
        if name in options:
            yield f"{at}.{name}", "is for the backend 'redis' alone.", "Take it out."


@rule(CLUSTER_RULES, "autoscaler-version", _RAY, "One place says which autoscaler runs.", _SPEC)
def _autoscaler_version(case: Case) -> Broken:
    if not case.groups:
        return
    options, name = case.cluster.get("autoscalerOptions") or {}, "RAY_enable_autoscaler_v2"
    given = case.groups[0].env.get(name)
    at = f"{case.groups[0].at}.template.spec.containers[0].env"
    if given and not case.autoscales and given.get("value") in ("1", "true"):
        yield at, f"has {name} without autoscaling.", "Set enableInTreeAutoscaling."
    if given and case.autoscales and "version" in options:
        yield at, f"has {name} beside autoscalerOptions.version.", "Keep the latter."
    if any(entry["name"] == "KUBERAY_GEN_AUTOSCALER_START_CMD" for entry in options.get("env") or ()):
        yield f"{case.cluster_at}.autoscalerOptions.env", "has KUBERAY_GEN_AUTOSCALER_START_CMD.", "Take it out."
    if options and not case.autoscales:
        yield f"{case.cluster_at}.autoscalerOptions", "does nothing.", "Set enableInTreeAutoscaling, or take it out."


@rule(CLUSTER_RULES, "autoscaler-pods", _RAY, "The second autoscaler replaces pods; it must not find them revived.",
      _SPEC)  # fmt: skip
def _autoscaler_pods(case: Case) -> Broken:
    for group in case.groups:
        policy = group.pod.get("restartPolicy")
        if case.autoscaler_v2 and policy not in (None, "", "Never"):
            yield f"{group.at}.template.spec.restartPolicy", f"is {policy!r}; allowed is Never.", "Take it out."
        if case.autoscales and group.tree.get("suspend"):
            yield f"{group.at}.suspend", "is set with autoscaling.", "Take one out."


@rule(
    CLUSTER_RULES, "autoscaler-idle", _RAY, "Only the second autoscaler knows them.", "validateWorkerGroupIdleTimeout"
)
def _autoscaler_idle(case: Case) -> Broken:
    options = case.cluster.get("autoscalerOptions") or {}
    if (idle := options.get("idleTimeoutSeconds")) is not None and idle < 0:
        yield f"{case.cluster_at}.autoscalerOptions.idleTimeoutSeconds", f"is {idle}; at least 0.", "Raise it."
    for group in case.workers:
        for name in ("idleTimeoutSeconds", "priority"):
            if group.tree.get(name) and not case.autoscaler_v2:
                yield f"{group.at}.{name}", "needs autoscalerOptions.version v2.", "Set it, or take this out."
        if (group.tree.get("idleTimeoutSeconds") or 0) < 0:
            yield f"{group.at}.idleTimeoutSeconds", "is below 0.", "Raise it."


@rule(CLUSTER_RULES, "token-version", _RAY, "Older versions of Ray know no token.", _SPEC)
def _token_version(case: Case) -> Broken:
    options = case.cluster.get("authOptions") or {}
    ray = version(case.cluster.get("rayVersion"))
    at = f"{case.cluster_at}.rayVersion"
    if options.get("mode") == "token":
        if ray is None:
            yield at, f"is {case.cluster.get('rayVersion')!r}; a token needs one from 2.52.0 on.", "Give Ray's version."
        elif ray < (2, 52, 0):
            yield at, f"is {case.cluster['rayVersion']!r}; a token needs 2.52.0 or later.", "Use a later Ray."
    if not options.get("enableK8sTokenAuth"):
        return
    own = f"{case.cluster_at}.authOptions.enableK8sTokenAuth"
    if options.get("mode") != "token":
        yield own, "is set without mode token.", "Set authOptions.mode: token."
    if ray is not None and ray < (2, 55, 0):
        yield own, "needs Ray 2.55.0 or later.", "Use a later Ray."
    if options.get("secretName"):
        yield own, "is set beside secretName.", "Keep one."
    if case.resource.kind != "RayCluster":
        yield own, f"is not supported for {case.resource.kind}.", "Use secretName."


@rule(CLUSTER_RULES, "feature-gates", _RAY, "Fields behind a gate that is off are refused.", "pkg/features/features.go")
def _feature_gates(case: Case) -> Broken:
    gates = {
        "networkPolicy": "RayClusterNetworkPolicy",
        "tlsOptions": "RayClusterMTLS",
        "historyServerOptions": "RayClusterHistoryServer",
    }
    for name, gate in gates.items():
        if name in case.cluster:
            yield f"{case.cluster_at}.{name}", f"needs the feature gate {gate}, off by default.", "Take it out."


@rule(CLUSTER_RULES, "cluster-upgrade", ("RayJob", "RayService"), "Their clusters are replaced by their own ways.",
      "ValidateRayClusterUpgradeOptions")  # fmt: skip
def _cluster_upgrade(case: Case) -> Broken:
    if "upgradeStrategy" in case.cluster:
        yield f"{case.cluster_at}.upgradeStrategy", "is for a RayCluster of one's own.", "Take it out."


@rule(CLUSTER_RULES, "managed-by", _RAY, "Nobody else would look after it.", "a CEL rule of the CRD")
def _managed_by(case: Case) -> Broken:
    for at, tree in {"spec": case.spec, case.cluster_at: case.cluster}.items():
        if tree.get("managedBy", _OPERATORS[0]) not in _OPERATORS:
            yield f"{at}.managedBy", f"is {tree['managedBy']!r}; allowed are {', '.join(_OPERATORS)}.", "Correct it."
