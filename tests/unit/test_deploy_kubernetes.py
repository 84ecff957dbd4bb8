"""The manifests of deploy/kubernetes are what a cluster and the KubeRay operator accept; what is not is found."""

import copy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.check.findings import CheckError
from deploy.check.kustomize import Resource, render
from deploy.check.manifests import RULES, check_objects
from deploy.check.patch import apply_patch
from deploy.check.rules import quantity
from deploy.check.schemas import crd_folder, read_crd

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
FOLDERS = [KUBERNETES / "base", *sorted((KUBERNETES / "overlays").iterdir())]
CRDS = crd_folder()
WITH_CRDS = pytest.mark.skipif(
    CRDS is None, reason="KubeRay's CRDs are absent: set RAYFT_CRDS to a folder with ray.io_rayclusters.yaml and so on."
)


@WITH_CRDS
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_manifest_is_accepted(folder):
    resources = render(folder)
    assert {"RayCluster", "RayJob", "RayService"} & {resource.kind for resource in resources}
    assert [str(finding) for finding in check_objects(resources, CRDS)] == []


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not there to compare with.")
@pytest.mark.parametrize("folder", [*FOLDERS, None], ids=lambda folder: "own" if folder is None else folder.name)
def test_rendering_gives_what_kubectl_gives(folder, tmp_path):
    if folder is None:
        folder = tmp_path / "own"
        shutil.copytree(KUBERNETES / "base", tmp_path / "base")
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../base]\nnamespace: ours\n"
            "labels: [{pairs: {team: vision}}]\nimages: [{name: rayft, newName: host:5000/ml/rayft, newTag: '7'}]\n"
        )
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    by_kubectl = {}
    for tree in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader):
        by_kubectl[tree["apiVersion"], tree["kind"], tree["metadata"]["name"]] = tree
    assert {resource.identity: resource.tree for resource in render(folder)} == by_kubectl


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("namePrefix: x-", "namePrefix"),
        ("resources: [missing.yaml]", "missing.yaml"),
        ("resources: ['https://example.com/base']", "local path"),
        ("patches: [{patch: 'spec: {}', target: {kind: RayJob}}]", "strategic merge"),
        ("patches: [{patch: '[]', target: {labelSelector: a=b}}]", "labelSelector"),
        ("images: [{name: a, digest: b}]", "digest"),
        ("resources: [.]", "includes itself"),
        ("a: b: c", "no YAML"),
    ],
)
def test_what_the_renderer_does_not_know_is_refused(text, told, tmp_path):
    (tmp_path / "kustomization.yaml").write_text(text + "\n")
    with pytest.raises(CheckError, match=told):
        render(tmp_path)


def test_a_patch_does_what_rfc_6902_says():
    tree = {"a/b": [1, 2], "c": {"d": 1}}
    operations = [
        {"op": "test", "path": "/a~1b/1", "value": 2},
        {"op": "add", "path": "/a~1b/1", "value": 9},
        {"op": "add", "path": "/a~1b/-", "value": 7},
        {"op": "remove", "path": "/a~1b/0"},
        {"op": "replace", "path": "/c/d", "value": 5},
    ]
    assert apply_patch(tree, operations, "p") == {"a/b": [9, 2, 7], "c": {"d": 5}}
    assert tree == {"a/b": [1, 2], "c": {"d": 1}}
    for wrong in (
        {"op": "remove", "path": "/c/x"},
        {"op": "replace", "path": "/a~1b/2", "value": 1},
        {"op": "test", "path": "/c/d", "value": 2},
        {"op": "move", "path": "/c", "from": "/d"},
    ):
        with pytest.raises(CheckError):
            apply_patch(tree, [wrong], "p")


def test_quantities_are_those_of_kubernetes():
    known = {"500m": 0.5, "2": 2.0, "8Gi": 8 * 2**30, "1k": 1000.0, "1M": 1e6, "1Ki": 1024.0, None: 0.0}
    assert {text: quantity(text) for text in known} == known


# What breaks each rule: kind, patch on its object of the base.
C, J, S = "RayCluster", "RayJob", "RayService"
HEAD, WORKER = "/spec/headGroupSpec", "/spec/workerGroupSpecs/0"
POD, ENV = f"{WORKER}/template/spec", f"{HEAD}/template/spec/containers/0/env"
ONE = f"{POD}/containers/0"
RULE = "/spec/deletionStrategy/deletionRules"
FT = "/spec/gcsFaultToleranceOptions"
SERVE = "/spec/serveConfigV2"


def put(path, value):
    return {"op": "add", "path": path, "value": value}


def cut(path):
    return {"op": "remove", "path": path}


BREAKS = {
    "name": [(J, put("/metadata/name", "a" * 48)), (C, put("/metadata/name", "1a"))],
    "containers": [(C, put(f"{POD}/containers", []))],
    "group-resources": [(C, put(f"{HEAD}/resources", {"CPU": "1"}))],
    "group-labels": [(C, put(f"{HEAD}/rayStartParams/labels", "a=b")), (C, put(f"{HEAD}/labels", {"a b": "c"}))],
    "pod-labels": [(C, put(f"{HEAD}/template/metadata/labels/ray.io~1group", "mine"))],
    "replicas": [
        (C, put(f"{WORKER}/replicas", 5)),
        (C, put(f"{WORKER}/minReplicas", 3)),
        (C, cut(f"{WORKER}/maxReplicas")),
    ],
    "gcs-ft-settings": [
        (C, put(f"{ENV}/-", {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"})),
        (C, put(f"{ENV}/-", {"name": "REDIS_USERNAME", "value": "me"})),
        (C, put(FT, {"redisAddress": "r:1"}), put(f"{HEAD}/rayStartParams/redis-password", "x")),
        (C, put(FT, {"redisAddress": "r:1"}), put("/metadata/annotations", {"ray.io/ft-enabled": "true"})),
    ],
    "gcs-ft-backend": [
        (C, put(FT, {})),
        (C, put(FT, {"backend": "rocksdb"})),
        (C, put(FT, {"redisAddress": "r:1", "storage": {}})),
    ],
    "autoscaler-version": [
        (C, put(f"{ENV}/-", {"name": "RAY_enable_autoscaler_v2", "value": "1"})),
        (C, put("/spec/autoscalerOptions", {"version": "v2"})),
    ],
    "autoscaler-pods": [
        (
            C,
            put("/spec/enableInTreeAutoscaling", True),
            put("/spec/autoscalerOptions", {"version": "v2"}),
            put(f"{POD}/restartPolicy", "Always"),
        ),
        (C, put("/spec/enableInTreeAutoscaling", True), put(f"{WORKER}/suspend", True)),
    ],
    "autoscaler-idle": [(C, put(f"{WORKER}/idleTimeoutSeconds", 60)), (C, put(f"{WORKER}/priority", 1))],
    "token-version": [
        (C, put("/spec/rayVersion", "2.51.0")),
        (C, cut("/spec/rayVersion")),
        (C, put("/spec/authOptions/enableK8sTokenAuth", True)),
    ],
    "feature-gates": [(C, put("/spec/networkPolicy", {})), (C, put("/spec/tlsOptions", {"enabled": True}))],
    "cluster-upgrade": [(J, put("/spec/rayClusterSpec/upgradeStrategy", {"type": "Recreate"}))],
    "managed-by": [(C, put("/spec/managedBy", "me"))],
    "submission-mode": [
        (J, put("/spec/submissionMode", "K8SJobMode")),
        (J, put("/spec/submissionMode", "SidecarMode")),
        (J, cut("/spec/entrypoint")),
    ],
    "retries": [
        (J, put("/spec/submissionMode", "InteractiveMode")),
        (J, put("/spec/backoffLimit", -1)),
        (J, put("/spec/clusterSelector", {"ray.io/cluster": "x"})),
    ],
    "job-cluster": [(J, put("/spec/clusterSelector", {"a": "b"})), (J, cut("/spec/rayClusterSpec"))],
    "deadlines": [(J, put("/spec/activeDeadlineSeconds", 0))],
    "suspend": [(J, put("/spec/suspend", True))],
    "runtime-env": [(J, put("/spec/runtimeEnvYAML", "- a"))],
    "deletion": [
        (J, put("/spec/shutdownAfterJobFinishes", True)),
        (J, put("/spec/ttlSecondsAfterFinished", 9)),
        (J, cut(RULE)),
        (J, put("/spec/deletionStrategy/onSuccess", {"policy": "DeleteSelf"})),
    ],
    "deletion-rules": [
        (J, put(f"{RULE}/0/condition/ttlSeconds", 7200)),
        (J, put(f"{RULE}/0/condition/jobDeploymentStatus", "Failed")),
        (J, put(f"{RULE}/0/policy", "DeleteCluster")),
        (J, put("/spec/rayClusterSpec/enableInTreeAutoscaling", True)),
    ],
    "kueue": [(J, put("/metadata/labels/kueue.x-k8s.io~1queue-name", "q"))],
    "service-upgrade": [(S, put("/spec/upgradeStrategy/type", "Rolling"))],
    "incremental-upgrade": [
        (S, put("/spec/upgradeStrategy", {"type": "NewClusterWithIncrementalUpgrade"})),
        (
            S,
            put(
                "/spec/upgradeStrategy",
                {
                    "type": "NewClusterWithIncrementalUpgrade",
                    "clusterUpgradeOptions": {
                        "gatewayClassName": "g",
                        "intervalSeconds": 5,
                        "stepSizePercent": 30,
                        "maxSurgePercent": 20,
                    },
                },
            ),
        ),
    ],
    "serve-port": [
        (
            S,
            put(
                "/spec/rayClusterConfig/headGroupSpec/template/spec/containers/0/ports",
                [{"name": "http", "containerPort": 8000}],
            ),
        )
    ],
    "service-names": [
        (S, put("/metadata/annotations", {"ray.io/initializing-timeout": "soon"})),
        (S, put("/spec/rayClusterDeletionDelaySeconds", -1)),
    ],
    "probes": [(C, cut(f"{ONE}/readinessProbe")), (C, cut(f"{ONE}/livenessProbe"))],
    "resources": [(C, cut(f"{ONE}/resources/requests/cpu")), (C, cut(f"{ONE}/resources/limits/memory"))],
    "read-only-root": [(C, put(f"{ONE}/securityContext/readOnlyRootFilesystem", False))],
    "privileges": [
        (C, cut(f"{ONE}/securityContext/allowPrivilegeEscalation")),
        (C, put(f"{ONE}/securityContext/capabilities/drop", ["NET_RAW"])),
        (C, put(f"{POD}/hostNetwork", True)),
        (C, put(f"{POD}/volumes/-", {"name": "host", "hostPath": {"path": "/"}})),
    ],
    "non-root": [
        (C, cut(f"{POD}/securityContext/runAsNonRoot")),
        (C, put(f"{POD}/securityContext/runAsUser", 0)),
        (C, cut(f"{POD}/securityContext/seccompProfile")),
    ],
    "api-token": [
        (C, put(f"{POD}/automountServiceAccountToken", True)),
        (C, put("/spec/enableInTreeAutoscaling", True)),
    ],
    "plain-secrets": [
        (C, put(f"{ENV}/-", {"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"})),
        ("ConfigMap", put("/data/config.yaml", "storage: s3://key:secret@bucket/x")),
    ],
    "token": [
        (C, cut("/spec/authOptions")),
        (C, cut("/spec/authOptions/secretName")),
        (J, put("/spec/rayClusterSpec/authOptions/mode", "disabled")),
    ],
    "network": [(C, cut(f"{WORKER}/template/metadata/labels/app.kubernetes.io~1part-of"))],
    "exposed": [
        (C, put(f"{HEAD}/serviceType", "NodePort"), put(f"{HEAD}/template/metadata/labels", {"a": "b"})),
        (C, put(f"{HEAD}/enableIngress", True)),
    ],
    "image": [
        (C, put(f"{ONE}/image", "rayft:latest")),
        (C, put(f"{ONE}/image", "rayft:0.1.0-ray2.59.0")),
        (C, put(f"{ONE}/image", "busybox")),
        (C, put(f"{ONE}/resources/limits/nvidia.com~1gpu", "1")),
    ],
    "ray-version": [(C, put("/spec/rayVersion", "2.59.0"))],
    "shared-memory": [
        (C, put(f"{POD}/volumes/2/emptyDir/sizeLimit", "4Gi")),
        (C, cut(f"{ONE}/volumeMounts/2")),
        (C, cut(f"{ONE}/volumeMounts/0")),
    ],
    "references": [
        (C, put(f"{POD}/serviceAccountName", "other")),
        (C, put(f"{POD}/volumes/-", {"name": "x", "configMap": {"name": "gone"}})),
    ],
    "job-config": [
        (J, put("/spec/entrypoint", "rayft train /etc/rayft/other.yaml")),
        (J, put("/spec/rayClusterSpec/workerGroupSpecs/0/replicas", 1)),
    ],
    "endpoint": [
        (S, put(SERVE, "applications: []")),
        (S, put("/spec/excludeHeadPodFromServeSvc", False)),
        (
            S,
            put(
                "/spec/rayClusterConfig/workerGroupSpecs/0/template/spec/containers/0/readinessProbe/httpGet/port",
                52365,
            ),
        ),
        (S, cut("/spec/rayClusterConfig/workerGroupSpecs/0/template/spec/containers/0/volumeMounts/3")),
        (S, put("/spec/rayClusterConfig/workerGroupSpecs/0/replicas", 1)),
    ],
}


@pytest.fixture(scope="module")
def base():
    return render(KUBERNETES / "base")


def broken(base, kind, operations):
    return [
        Resource(apply_patch(each.tree, list(operations), "a test"), each.file) if each.kind == kind else each
        for each in base
    ]


@pytest.mark.parametrize("name", [each.name for each in RULES])
def test_each_rule_finds_what_breaks_it(name, base):
    for kind, *operations in BREAKS[name]:
        found = check_objects(broken(base, kind, operations), None)
        assert name in {finding.rule for finding in found}, (kind, operations, [str(finding) for finding in found])
        for finding in found:
            assert finding.file.startswith("deploy/kubernetes/base/")
            assert finding.fix.endswith(".")


@WITH_CRDS
@pytest.mark.parametrize(
    ("kind", "operation", "path", "told"),
    [
        (C, put(f"{WORKER}/minReplica", 1), "spec.workerGroupSpecs[0].minReplica", "unknown field; allowed are"),
        (C, put(f"{ONE}/redinessProbe", {}), "containers[0].redinessProbe", "unknown"),
        (C, put("/spec/authOptions/mode", "tokens"), "spec.authOptions.mode", "allowed are disabled, token"),
        (C, put(f"{WORKER}/replicas", "2"), "spec.workerGroupSpecs[0].replicas", "it must be integer"),
        (C, put("/metadata/label", {}), "metadata.label", "is not one of"),
        (C, put("/apiVersion", "ray.io/v2"), "apiVersion", "ray.io/v1"),
        ("PodDisruptionBudget", put("/spec/minAvailabel", 1), "spec.minAvailabel", "unknown field"),
        ("NetworkPolicy", put("/spec/policyType", []), "spec.policyType", "unknown field"),
        ("PodDisruptionBudget", put("/apiVersion", "policy/v9"), "", "is not of Kubernetes"),
    ],
)
def test_a_wrong_field_is_found_and_named(kind, operation, path, told, base):
    found = check_objects(broken(base, kind, [operation]), CRDS)
    assert any(path in finding.path and told in finding.problem for finding in found), [str(each) for each in found]


@WITH_CRDS
def test_the_rules_know_every_cel_rule_of_the_crds():
    # Those that compare with the object before cannot be judged from a file.
    of_one_file = {
        "the managedBy field value must be either 'ray.io/kuberay-operator' or 'kueue.x-k8s.io/multikueue'",
        "legacy policies (onSuccess/onFailure) and deletionRules cannot be used together within the same "
        "deletionStrategy",
        "deletionStrategy requires either BOTH onSuccess and onFailure, OR the deletionRules field (cannot be empty)",
        "JobStatus and JobDeploymentStatus cannot be used together within the same deletion condition.",
        "the deletion condition requires either the JobStatus or the JobDeploymentStatus field.",
    }
    kinds = ("raycluster", "rayjob", "rayservice")
    found, nodes = set(), [read_crd(CRDS / f"ray.io_{kind}s.yaml")["ray.io/v1"] for kind in kinds]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            found |= {
                each["message"] for each in node.get("x-kubernetes-validations", ()) if "oldSelf" not in each["rule"]
            }
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node
    assert found == of_one_file


def test_a_setting_that_names_no_crds_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("RAYFT_CRDS", str(tmp_path))
    with pytest.raises(CheckError, match=r"ray\.io_rayclusters\.yaml"):
        crd_folder()


def test_nothing_is_changed_by_checking(base):
    before = copy.deepcopy([each.tree for each in base])
    check_objects(base, None)
    assert [each.tree for each in base] == before
