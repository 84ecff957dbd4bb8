"""Rules of the KubeRay operator on RayJobs; sources as in kuberay_cluster."""

from __future__ import annotations

import itertools

import yaml

from deploy.check.rules import Broken, Case, Table, rule

JOB_RULES: Table = []
_JOB = ("RayJob",)
_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
_SPEC = "ValidateRayJobSpec"
_DELETION = "spec.deletionStrategy"


@rule(JOB_RULES, "submission-mode", _JOB, "The schema takes any text.", "JobSubmissionMode in apis/ray/v1")
def _submission_mode(case: Case) -> Broken:
    mode = case.spec.get("submissionMode", _MODES[0])
    if mode not in _MODES:
        yield "spec.submissionMode", f"is {mode!r}; allowed are {', '.join(_MODES)}.", "Take one of those."
    if mode == "SidecarMode":
        for name in ("submitterPodTemplate", "submitterConfig"):
            if name in case.spec:
                yield f"spec.{name}", "is not supported in SidecarMode.", "Take it out, or use K8sJobMode."
        policy = case.groups[0].pod.get("restartPolicy") if case.groups else None
        if policy not in (None, "", "Never"):
            yield f"{case.groups[0].at}.template.spec.restartPolicy", "must be Never in SidecarMode.", "Take it out."
    if mode != "InteractiveMode" and not str(case.spec.get("entrypoint") or "").strip():
        yield "spec.entrypoint", f"is empty in {mode}.", "Say what to run."


@rule(JOB_RULES, "retries", _JOB, "A repeated try needs a cluster of its own.", _SPEC)
def _retries(case: Case) -> Broken:
    limit = case.spec.get("backoffLimit") or 0
    if limit < 0:
        yield "spec.backoffLimit", f"is {limit}; at least 0.", "Raise it."
    if limit > 0 and case.spec.get("clusterSelector"):
        yield "spec.backoffLimit", f"is {limit} with clusterSelector; allowed is 0.", "Set it to 0."
    if limit > 0 and case.spec.get("submissionMode") == "InteractiveMode":
        yield "spec.backoffLimit", f"is {limit} in InteractiveMode; allowed is 0.", "Set it to 0."


@rule(JOB_RULES, "job-cluster", _JOB, "A job needs a cluster: its own, or one that is there.", _SPEC)
def _job_cluster(case: Case) -> Broken:
    selector = case.spec.get("clusterSelector")
    if not selector and "rayClusterSpec" not in case.spec:
        yield "spec", "has neither rayClusterSpec nor clusterSelector.", "Give one."
    if selector and not selector.get("ray.io/cluster"):
        yield "spec.clusterSelector", "does not name a cluster.", "Write ray.io/cluster: its name."
    if selector and case.spec.get("submissionMode") == "SidecarMode":
        yield "spec.clusterSelector", "is not supported in SidecarMode.", "Use K8sJobMode."


@rule(JOB_RULES, "deadlines", _JOB, "The operator refuses them.", _SPEC)
def _deadlines(case: Case) -> Broken:
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if name in case.spec and case.spec[name] <= 0:
            yield f"spec.{name}", f"is {case.spec[name]}; above 0.", "Raise it, or take it out."


@rule(JOB_RULES, "suspend", _JOB, "A suspended job's cluster is deleted.", _SPEC)
def _suspend(case: Case) -> Broken:
    if case.spec.get("suspend") and not case.spec.get("shutdownAfterJobFinishes"):
        yield "spec.suspend", "needs shutdownAfterJobFinishes.", "Set it."
    if case.spec.get("suspend") and case.spec.get("clusterSelector"):
        yield "spec.suspend", "is not supported with clusterSelector.", "Take one out."


@rule(JOB_RULES, "runtime-env", _JOB, "The operator parses it.", _SPEC)
def _runtime_env(case: Case) -> Broken:
    try:
        tree = yaml.safe_load(case.spec.get("runtimeEnvYAML") or "{}")
    except yaml.YAMLError:
        tree = None
    if not isinstance(tree, dict):
        yield "spec.runtimeEnvYAML", "is no mapping in YAML.", "Mend it."


@rule(JOB_RULES, "deletion", _JOB, "Two ways to end a cluster would contradict each other.",
      "validateDeletionConfiguration")  # fmt: skip
def _deletion(case: Case) -> Broken:
    strategy, ttl = case.spec.get("deletionStrategy"), case.spec.get("ttlSecondsAfterFinished") or 0
    shuts = case.spec.get("shutdownAfterJobFinishes")
    if ttl < 0 or (ttl > 0 and not shuts):
        yield "spec.ttlSecondsAfterFinished", f"is {ttl}; it needs shutdownAfterJobFinishes, and 0 or more.", "Set it."
    if strategy is None:
        return
    old, rules = {"onSuccess", "onFailure"} & set(strategy), strategy.get("deletionRules")
    if rules and shuts:
        yield f"{_DELETION}.deletionRules", "is set beside shutdownAfterJobFinishes.", "Keep one."
    if rules and old:
        yield _DELETION, "has deletionRules beside onSuccess or onFailure.", "Keep the first."
    if not rules and len(old) < 2:
        yield _DELETION, "needs deletionRules, or onSuccess and onFailure both.", "Write deletionRules."
    for name in sorted(old):
        policy = (strategy[name] or {}).get("policy")
        if policy is None or (shuts and policy == "DeleteNone"):
            yield f"{_DELETION}.{name}.policy", f"is {policy!r} with shutdownAfterJobFinishes {bool(shuts)}.", "Set it."
        yield from _of_policy(case, policy, f"{_DELETION}.{name}.policy")


@rule(JOB_RULES, "deletion-rules", _JOB, "Each condition is met once, and what is inside goes first.",
      "validateDeletionRules")  # fmt: skip
def _deletion_rules(case: Case) -> Broken:
    times: dict[str, dict[str, int]] = {}
    for number, entry in enumerate((case.spec.get("deletionStrategy") or {}).get("deletionRules") or ()):
        at, condition, policy = (
            f"{_DELETION}.deletionRules[{number}]",
            entry.get("condition") or {},
            entry.get("policy"),
        )
        states = [f"{name} {condition[name]}" for name in ("jobStatus", "jobDeploymentStatus") if name in condition]
        if len(states) != 1:
            yield f"{at}.condition", "must have one of jobStatus and jobDeploymentStatus.", "Give one."
            continue
        yield from _of_policy(case, policy, f"{at}.policy")
        found = times.setdefault(states[0], {})
        if policy in found:
            yield at, f"repeats {policy} for {states[0]}.", "Take one out."
        found[policy] = condition.get("ttlSeconds", 0)
    for state, found in times.items():
        ordered = [(policy, found[policy]) for policy in _ORDER if policy in found]
        for (first, sooner), (then, later) in itertools.pairwise(ordered):
            if later < sooner:
                yield (
                    f"{_DELETION}.deletionRules",
                    f"for {state}: {then} after {later} s, {first} after {sooner} s.",
                    (f"Let {first} come first."),
                )


def _of_policy(case: Case, policy: str | None, at: str) -> Broken:
    if policy == "DeleteWorkers" and case.autoscales:
        yield at, "is DeleteWorkers with autoscaling.", "Take it out: idle workers go by themselves."
    if policy in ("DeleteWorkers", "DeleteCluster") and case.spec.get("clusterSelector"):
        yield at, f"is {policy} with clusterSelector.", "The cluster is not the job's: take it out."


@rule(JOB_RULES, "kueue", ("RayJob", "RayCluster"), "Kueue suspends what it admits, and counts it once.",
      "Kueue, Run a RayJob: limitations")  # fmt: skip
def _kueue(case: Case) -> Broken:
    if "kueue.x-k8s.io/queue-name" not in (case.metadata.get("labels") or {}):
        return
    if case.autoscales:
        yield f"{case.cluster_at}.enableInTreeAutoscaling", "is set in a queue of Kueue.", "Take one out."
    if len(case.workers) > 7:
        yield f"{case.cluster_at}.workerGroupSpecs", f"are {len(case.workers)}; Kueue takes up to 7.", "Merge some."
    if case.resource.kind == "RayJob":
        if not case.spec.get("shutdownAfterJobFinishes"):
            yield "spec.shutdownAfterJobFinishes", "must be true in a queue of Kueue.", "Set it."
        if case.spec.get("clusterSelector"):
            yield "spec.clusterSelector", "is not supported in a queue of Kueue.", "Give rayClusterSpec."
