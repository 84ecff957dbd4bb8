"""Validates objects against the schemas that a cluster would use, unknown fields refused.

KubeRay's kinds: the CustomResourceDefinitions in the folder that RAYFT_CRDS names (``ray.io_rayclusters.yaml``, ...). A
cluster drops fields that they do not know without a word, so here each is an error. Kubernetes' own kinds: the strict
schemas that the package kubernetes-validate carries.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from deploy.check.findings import CheckError, Finding, shown
from deploy.check.kustomize import FAST_LOADER, Resource

SETTING = "RAYFT_CRDS"
# Beside the repository, where those who work on it keep what belongs to no commit.
_DEFAULT = Path(__file__).parents[2] / ".." / "shared" / "crds"
# The oldest that KubeRay 1.7 is tested with has all that is used here.
KUBERNETES = "1.33"
_CRD_FILE = "ray.io_{plural}.yaml"
_PLURALS = {"RayCluster": "rayclusters", "RayJob": "rayjobs", "RayService": "rayservices"}
_META = {"name", "namespace", "labels", "annotations"}


def crd_folder() -> Path | None:
    """Return the folder of the CRDs, or None where there is none to be found.

    Raises:
        CheckError: The setting names something that is no such folder.
    """
    given = os.environ.get(SETTING)
    folder = Path(given) if given else _DEFAULT
    if all((folder / _CRD_FILE.format(plural=plural)).is_file() for plural in _PLURALS.values()):
        return folder.resolve()
    if given:
        names = ", ".join(_CRD_FILE.format(plural=plural) for plural in _PLURALS.values())
        raise CheckError(f"{SETTING} is {given!r}, which does not hold {names}.", "Name a folder with KubeRay's CRDs.")
    return None


def check_schema(resource: Resource, crds: Path | None) -> Iterator[Finding]:
    """Find what the schema of an object's kind does not allow.

    Args:
        resource: One object.
        crds: Folder of the CRDs; None leaves out KubeRay's kinds.
    """
    where = f"{resource.kind}/{resource.name}"
    if resource.kind in _PLURALS:
        if crds is None:
            return
        version = str(resource.tree.get("apiVersion"))
        validator = _crd_validator(crds / _CRD_FILE.format(plural=_PLURALS[resource.kind]), version)
        if validator is None:
            yield Finding(resource.file, f"{where} apiVersion", f"is {version!r}; the CRD serves ray.io/v1.",
                          "Write ray.io/v1.", "schema")  # fmt: skip
            return
        for name in sorted(set(resource.tree["metadata"]) - _META):
            yield Finding(resource.file, f"{where} metadata.{name}", f"is not one of {', '.join(sorted(_META))}.",
                          "Take it out; a cluster fills in the rest.", "schema")  # fmt: skip
    else:
        validator = _kubernetes_validator(str(resource.tree.get("apiVersion")), resource.kind)
        if validator is None:
            yield Finding(
                resource.file, where, f"{resource.tree.get('apiVersion')} is not of Kubernetes {KUBERNETES}.",
                "Check apiVersion and kind; kinds of other operators cannot be checked here.", "schema",
            )  # fmt: skip
            return
    for error in sorted(validator.iter_errors(resource.tree), key=lambda error: list(map(str, error.absolute_path))):
        yield from _told(error, resource.file, where)


def _told(error: ValidationError, file: str, where: str) -> Iterator[Finding]:
    path = _path(error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = ", ".join(sorted(error.schema.get("properties", {})))
        for name in sorted(set(error.instance) - set(error.schema.get("properties", {}))):
            yield Finding(
                file, f"{where} {f'{path}.{name}' if path else name}", f"unknown field; allowed are {allowed}.",
                "Correct the name: the cluster would drop it without a word.", "schema",
            )  # fmt: skip
    elif error.validator == "enum":
        allowed = ", ".join(str(value) for value in error.validator_value)
        yield Finding(file, f"{where} {path}", f"is {shown(error.instance)}; allowed are {allowed}.",
                      "Take one of those.", "schema")  # fmt: skip
    elif error.validator == "required":
        missing = ", ".join(name for name in error.validator_value if name not in error.instance)
        yield Finding(file, f"{where} {path}", f"lacks {missing}.", "Add it.", "schema")
    elif error.validator == "type":
        yield Finding(file, f"{where} {path}", f"is {shown(error.instance)}; it must be {error.validator_value}.",
                      "Quote numbers where text is wanted, and the other way round.", "schema")  # fmt: skip
    else:
        yield Finding(file, f"{where} {path}", f"is {shown(error.instance)}: {error.message[:200]}",
                      "See the field in the schema.", "schema")  # fmt: skip


def _path(parts: Any) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


@functools.cache
def read_crd(file: Path) -> dict[str, dict[str, Any]]:
    """Return the schemas of a CRD, by API version."""
    tree = yaml.load(file.read_text(encoding="utf-8"), Loader=FAST_LOADER)
    group = tree["spec"]["group"]
    return {f"{group}/{v['name']}": v["schema"]["openAPIV3Schema"] for v in tree["spec"]["versions"] if v["served"]}


@functools.cache
def _crd_validator(file: Path, version: str) -> Draft202012Validator | None:
    schema = read_crd(file).get(version)
    return None if schema is None else Draft202012Validator(strict(schema))


def strict(schema: dict[str, Any]) -> dict[str, Any]:
    """Return an OpenAPI schema as a JSON Schema that refuses unknown fields."""
    made = {name: value for name, value in schema.items() if not name.startswith("x-") and name != "format"}
    if "properties" in schema:
        made["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            made[name] = strict(schema[name])
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    if schema.get("nullable"):
        made["type"] = [made["type"], "null"]
    return made


@functools.cache
def _definitions() -> dict[str, Any]:
    return json.loads(_strict_folder().joinpath("_definitions.json").read_text(encoding="utf-8"))["$defs"]


def _strict_folder() -> Any:
    package = importlib.resources.files("kubernetes_validate")
    return package.joinpath(f"kubernetes-json-schema/v{KUBERNETES}.0-local-strict")


@functools.cache
def _kubernetes_validator(version: str, kind: str) -> Draft202012Validator | None:
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", version).lower()
    file = _strict_folder().joinpath(f"{kind.lower()}-{group}.json")
    if not file.is_file():
        return None
    return Draft202012Validator(_inlined(json.loads(file.read_text(encoding="utf-8"))))


def _inlined(schema: Any) -> Any:
    """Return a schema with its references replaced by what they name; none of the kinds here contains itself."""
    if isinstance(schema, list):
        return [_inlined(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined_definition(schema["$ref"].rpartition("/")[2])
    return {name: _inlined(value) for name, value in schema.items() if name != "description" or isinstance(value, dict)}


@functools.cache
def _inlined_definition(name: str) -> Any:
    return _inlined(_definitions()[name])
