"""Rules of this project on what fits together: versions, volumes, names, and the configs that manifests carry."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.check.kustomize import Resource, split_image
from deploy.check.pods import Pod, pods_of
from deploy.check.rules import Broken, Case, Table, quantity, rule
from rayft.config import ServeConfig, check_section, parse_config
from rayft.errors import RayftError

FITNESS_RULES: Table = []
_ALL: tuple[str, ...] = ()
_RAY = ("RayCluster", "RayJob", "RayService")
_HOUSE = "docs/deploy.md"
_ROOT = Path(__file__).parents[2]
_TAG = re.compile(r"(?P<rayft>\d+\.\d+\.\d+)-ray(?P<ray>\d+\.\d+\.\d+)(?P<gpu>-gpu)?")
# Of a node's memory, Ray takes so much for its object store if nobody says otherwise.
_STORE_SHARE = 0.3
_IMPORT = "rayft.serve.app:build"


def pinned_ray() -> str:
    """Return the version of Ray that constraints.txt pins."""
    match = re.search(r"^ray==(\S+)$", (_ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert match is not None
    return match[1]


@rule(FITNESS_RULES, "image", _ALL, "Nodes of different versions of Ray or Python do not work together.", _HOUSE)
def _image(case: Case) -> Broken:
    for pod in pods_of(case):
        for at, container in pod.every_container:
            name, tag = split_image(str(container.get("image", "")))
            if "@sha256:" in str(container.get("image")):
                continue
            if tag in ("", "latest"):
                yield f"{at}.image", f"is {container.get('image')!r}, which changes under your feet.", "Give a version."
            elif name.rpartition("/")[2] == "rayft":
                match = _TAG.fullmatch(tag)
                if match is None or match["ray"] != pinned_ray():
                    yield (
                        f"{at}.image",
                        f"has the tag {tag!r}; Ray is pinned to {pinned_ray()}.",
                        (f"Use a tag of the form 0.1.0-ray{pinned_ray()}, with -gpu for GPUs."),
                    )
                elif "nvidia.com/gpu" in str(container.get("resources")) and not match["gpu"]:
                    yield f"{at}.image", f"has the tag {tag!r} and asks for a GPU.", "Use the image for GPUs."


@rule(FITNESS_RULES, "ray-version", _RAY, "The operator chooses probes and tokens by it.", _HOUSE)
def _ray_version(case: Case) -> Broken:
    if case.cluster and (found := case.cluster.get("rayVersion")) != pinned_ray():
        yield f"{case.cluster_at}.rayVersion", f"is {found!r}; constraints.txt pins {pinned_ray()!r}.", "Correct it."


@rule(FITNESS_RULES, "shared-memory", _RAY, "A store that is larger than /dev/shm falls back to disk.",
      "ray/_private/services.py")  # fmt: skip
def _shared_memory(case: Case) -> Broken:
    for pod, group in zip(pods_of(case), case.groups, strict=False):
        at, container = next(pod.containers, ("", {}))
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts") or ()}
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes") or ()}
        if "/tmp" not in mounts:
            yield f"{at}.volumeMounts", "has no /tmp, where Ray writes.", "Mount an emptyDir."
        volume = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir")
        if volume is None or volume.get("medium") != "Memory":
            yield f"{at}.volumeMounts", "has no /dev/shm of an emptyDir in memory.", "Mount one."
            continue
        memory = quantity(((container.get("resources") or {}).get("limits") or {}).get("memory"))
        store = float(group.params.get("object-store-memory") or memory * _STORE_SHARE)
        if 0 < quantity(volume.get("sizeLimit")) < store:
            yield (
                f"{pod.at}.volumes {mounts['/dev/shm']}",
                (f"is limited to {volume['sizeLimit']}; Ray's object store takes {store / 2**30:.1f}Gi."),
                "Raise it, or set rayStartParams.object-store-memory.",
            )


@rule(FITNESS_RULES, "references", _ALL, "A pod that names what is not there waits for ever.", _HOUSE)
def _references(case: Case) -> Broken:
    there = {(resource.kind, resource.name) for resource in case.beside}
    for pod in pods_of(case):
        for at, kind, name in _named(pod):
            if (kind, name) not in there:
                yield at, f"names the {kind} {name!r}, which is not in the kustomization.", "Add it, or correct it."


@rule(FITNESS_RULES, "job-config", ("RayJob",), "The job would end at once, or wait for ever.", _HOUSE)
def _job_config(case: Case) -> Broken:
    words = shlex.split(str(case.spec.get("entrypoint") or ""))
    if words[:2] not in (["rayft", "train"], ["rayft", "sweep"]) or not case.groups:
        return
    # The driver runs in the head's pod.
    text = _file_in(case, case.groups[0].pod, words[2]) if len(words) > 2 else None
    if text is None:
        yield "spec.entrypoint", f"reads {words[2:3]}, which no ConfigMap puts into the head's pod.", "Mount it there."
        return
    try:
        config = parse_config(yaml.safe_load(text))
    except (RayftError, yaml.YAMLError) as error:
        yield f"config {words[2]}", str(error).splitlines()[0], "Correct the ConfigMap."
        return
    if config.cluster.address is None:
        yield f"config {words[2]}", "has no cluster.address: it would start a Ray of its own.", "Write auto."
    for name, each in (("cpu", config.cluster.cpus_per_worker), ("nvidia.com/gpu", config.cluster.gpus_per_worker)):
        asked, there = each * config.cluster.workers, _capacity(case, name, each)
        if asked > there:
            yield (
                f"config {words[2]}",
                f"asks for {asked:g} {name}; the workers' pods hold {there:g} of that size.",
                ("Lower cluster.workers, or give more or larger pods."),
            )


@rule(FITNESS_RULES, "endpoint", ("RayService",), "Requests reach the replicas, and nobody else answers.", _HOUSE)
def _endpoint(case: Case) -> Broken:
    at = "spec.serveConfigV2"
    try:
        tree = yaml.safe_load(case.spec.get("serveConfigV2") or "")
        (application,) = tree["applications"]
        config = check_section(ServeConfig, dict(application["args"]))
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        yield at, "is not one application of Ray Serve.", "Write it with `rayft serve ... --write-config`."
        return
    except RayftError as error:
        yield f"{at} args", str(error).splitlines()[0], "See docs/serving-config.md."
        return
    if application.get("import_path") != _IMPORT or tree.get("proxy_location") != "Disabled":
        yield at, f"must have import_path {_IMPORT} and proxy_location Disabled.", "The replicas listen themselves."
    if config.keys is None or config.host in ("127.0.0.1", "localhost", "::1"):
        yield (
            f"{at} args",
            f"has host {config.host!r} and keys {config.keys!r}.",
            "Set host 0.0.0.0 and a file of keys.",
        )
    if not case.spec.get("excludeHeadPodFromServeSvc"):
        yield "spec.excludeHeadPodFromServeSvc", "must be true: the operator would ask Serve's proxy.", "Set it."
    for group in case.groups:
        ports = {port.get("name"): port["containerPort"] for port in group.containers[0].get("ports") or ()}
        for name, port in (("serve", config.port), ("serve-grpc", config.grpc_port)):
            if port is not None and ports.get(name) != port:
                yield f"{group.at} ports", f"call {ports.get(name)} {name!r}; the endpoint has {port}.", "Correct it."
    for group in case.workers:
        probe = (group.containers[0].get("readinessProbe") or {}).get("httpGet") or {}
        if (probe.get("port"), probe.get("path")) not in (
            (config.port, "/v2/health/ready"),
            ("serve", "/v2/health/ready"),
        ):
            yield (
                f"{group.at} readinessProbe",
                f"asks {probe}; a pod is ready when its endpoint is.",
                (f"Ask /v2/health/ready on port {config.port}."),
            )
        if config.keys is not None and not _mounted(group.pod, config.keys):
            yield f"{group.at} volumeMounts", f"do not hold {config.keys}.", "Mount the Secret with the keys there."
    for name, each in (("cpu", config.cpus_per_replica or 1.0), ("nvidia.com/gpu", config.gpus_per_replica)):
        if each * config.max_replicas > (there := _capacity(case, name, each)):
            yield (
                at,
                f"{config.max_replicas} replicas x {each:g} {name}; the workers' pods hold {there:g}.",
                ("Lower the replicas, or give more or larger pods."),
            )


def _capacity(case: Case, name: str, each: float) -> float:
    """Return how much of a resource the workers' pods offer, at most, in pieces of a size."""
    if not each:
        return 0.0
    total = 0
    for group in case.workers:
        limits = (group.containers[0].get("resources") or {}).get("limits") or {}
        pods = group.tree.get("maxReplicas" if case.autoscales else "replicas") or 0
        total += pods * int(quantity(limits.get(name)) / each + 1e-9)
    return total * each


def _named(pod: Pod) -> Iterator[tuple[str, str, str]]:
    if name := pod.spec.get("serviceAccountName"):
        yield f"{pod.at}.serviceAccountName", "ServiceAccount", name
    for number, volume in enumerate(pod.spec.get("volumes") or ()):
        if "configMap" in volume:
            yield f"{pod.at}.volumes[{number}].configMap.name", "ConfigMap", volume["configMap"].get("name")
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"].get("claimName")
            yield f"{pod.at}.volumes[{number}].persistentVolumeClaim.claimName", "PersistentVolumeClaim", claim


def _file_in(case: Case, pod: dict[str, Any], path: str) -> str | None:
    """Return the text that a ConfigMap puts at a path of a pod."""
    volume = _mounted(pod, path)
    name = (volume or {}).get("configMap", {}).get("name")
    maps: list[Resource] = [each for each in case.beside if (each.kind, each.name) == ("ConfigMap", name)]
    return (maps[0].tree.get("data") or {}).get(path.rpartition("/")[2]) if maps else None


def _mounted(pod: dict[str, Any], path: str) -> dict[str, Any] | None:
    """Return the volume that holds a file of a pod's first container."""
    volumes = {volume["name"]: volume for volume in pod.get("volumes") or ()}
    for mount in (pod.get("containers") or [{}])[0].get("volumeMounts") or ():
        if path.rpartition("/")[0] == mount["mountPath"].rstrip("/"):
            return volumes.get(mount["name"])
    return None
