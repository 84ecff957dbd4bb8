"""Renders kustomizations that use a small part of Kustomize: what the files here need, and no more.

Known are ``resources``, ``components``, ``patches`` (JSON patches with a target's kind and name), ``namespace``,
``labels`` (pairs alone) and ``images``; all else is refused. tests/unit/test_deploy_kubernetes.py compares the result
with that of kubectl.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from deploy.check.findings import CheckError, shown
from deploy.check.patch import apply_patch

# Ten times as fast, where PyYAML was built with it.
FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_HEADER = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}
_WITHOUT_NAMESPACE = (
    "Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "PersistentVolume", "PriorityClass",
    "StorageClass",
)  # fmt: skip


@dataclass(frozen=True)
class Resource:
    """One Kubernetes object.

    Attributes:
        tree: Its content.
        file: Where it is written.
    """

    tree: dict[str, Any]
    file: str

    @property
    def kind(self) -> str:
        """Its kind."""
        return str(self.tree.get("kind"))

    @property
    def name(self) -> str:
        """Its name."""
        return str((self.tree.get("metadata") or {}).get("name"))

    @property
    def identity(self) -> tuple[str, str, str]:
        """What must be unique: API version, kind, name."""
        return str(self.tree.get("apiVersion")), self.kind, self.name


def render(folder: Path) -> list[Resource]:
    """Return the objects of a kustomization, in the order in which they are named.

    Raises:
        CheckError: A file is missing or not readable, or uses what this does not know.
    """
    return _render(folder.resolve(), [], ())


def read_documents(path: Path) -> list[Any]:
    """Return the documents of a YAML file that are not empty.

    Raises:
        CheckError: It cannot be read, or is no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return [tree for tree in yaml.load_all(text, Loader=FAST_LOADER) if tree is not None]
    except OSError as error:
        raise CheckError(f"Cannot read {shorter(path)}: {error.strerror}.", "Give a file that exists.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" line {mark.line + 1}"
        raise CheckError(f"{shorter(path)}{line} is no YAML: {getattr(error, 'problem', error)}.", "Mend it.") from None


def shorter(path: Path) -> str:
    """Return a path relative to the working directory, where it lies in it."""
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.as_posix()


def _render(folder: Path, below: list[Resource], open_folders: tuple[Path, ...]) -> list[Resource]:
    """Return ``below`` with what a kustomization adds and changes."""
    if folder in open_folders:
        raise CheckError(f"{shorter(folder)} includes itself.", "Take the circle out of `resources`.")
    file = next((folder / name for name in NAMES if (folder / name).is_file()), None)
    if file is None:
        raise CheckError(f"{shorter(folder)} has no kustomization.yaml.", "Give a folder that has one.")
    tree = _read(file)
    opened = (*open_folders, folder)
    found = list(below)
    for entry in _strings(tree, "resources", file):
        place = (folder / entry).resolve()
        found += _render(place, [], opened) if place.is_dir() else _objects(place, folder)
    _require_unique(found, file)
    for entry in _strings(tree, "components", file):
        found = _render((folder / entry).resolve(), found, opened)
    for name, change in _CHANGES.items():
        if name in tree:
            found = change(found, tree[name], file)
    return found


def _read(file: Path) -> dict[str, Any]:
    documents = read_documents(file)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise CheckError(f"{shorter(file)} holds {len(documents)} documents; it must be one mapping.", "Mend it.")
    tree = documents[0]
    kind = tree.get("kind", "Kustomization")
    if kind not in _HEADER or tree.get("apiVersion", _HEADER[kind]) != _HEADER[kind]:
        raise CheckError(
            f"{shorter(file)} is {shown(tree.get('apiVersion'))} {shown(kind)}.",
            f"Known are {', '.join(f'{version} {kind}' for kind, version in _HEADER.items())}.",
        )
    known = {"apiVersion", "kind", "resources", "components", *_CHANGES}
    for name in sorted(set(tree) - known):
        raise CheckError(
            f"{shorter(file)} uses {name!r}; this renderer knows {', '.join(sorted(known))}.",
            "Write it with those, or render with kubectl and check the result.",
        )
    return tree


def _strings(tree: dict[str, Any], name: str, file: Path) -> Iterator[str]:
    for entry in tree.get(name) or ():
        if not isinstance(entry, str) or "://" in entry:
            raise CheckError(f"{shorter(file)}: {name} has {shown(entry)}; it must be a local path.", "Copy it here.")
        yield entry


def _objects(path: Path, folder: Path) -> list[Resource]:
    if not path.is_relative_to(folder):
        raise CheckError(
            f"{shorter(path)} lies outside of {shorter(folder)}, which Kustomize refuses.",
            "Include its folder, with a kustomization of its own.",
        )
    found = []
    for tree in read_documents(path):
        if not isinstance(tree, dict) or not tree.get("kind") or not (tree.get("metadata") or {}).get("name"):
            raise CheckError(f"{shorter(path)} has an object without kind and metadata.name.", "Name it.")
        found.append(Resource(tree, shorter(path)))
    return found


def _require_unique(found: list[Resource], file: Path) -> None:
    seen: dict[tuple[str, str, str], Resource] = {}
    for resource in found:
        if (other := seen.setdefault(resource.identity, resource)) is not resource:
            raise CheckError(
                f"{shorter(file)} has {resource.kind}/{resource.name} twice: {other.file}, {resource.file}.",
                "Include it once.",
            )


def _patch(found: list[Resource], patches: Any, file: Path) -> list[Resource]:
    for entry in patches or ():
        for name in sorted(set(entry) - {"target", "patch", "path"}):
            raise CheckError(f"{shorter(file)}: a patch has {name!r}; known are target, patch, path.", "Take it out.")
        target = entry.get("target") or {}
        for name in sorted(set(target) - {"kind", "name"}):
            raise CheckError(f"{shorter(file)}: a target has {name!r}; known are kind and name.", "Take it out.")
        source = f"{shorter(file)}" if "patch" in entry else shorter(file.parent / str(entry.get("path")))
        operations = yaml.safe_load(entry["patch"]) if "patch" in entry else _one(file.parent / str(entry.get("path")))
        if not isinstance(operations, list) or not target:
            raise CheckError(
                f"{source} is a strategic merge patch; on KubeRay's kinds that replaces whole lists.",
                "Write a list of JSON patch operations, with a target.",
            )
        found = [
            replace(resource, tree=apply_patch(resource.tree, operations, source))
            if _hits(target.get("kind"), resource.kind) and _hits(target.get("name"), resource.name)
            else resource
            for resource in found
        ]
    return found


def _one(path: Path) -> Any:
    documents = read_documents(path)
    return documents[0] if len(documents) == 1 else documents


def _hits(pattern: str | None, value: str) -> bool:
    # Kustomize takes both as expressions for the whole value.
    return pattern is None or re.fullmatch(pattern, value) is not None


def _with_namespace(found: list[Resource], namespace: str, file: Path) -> list[Resource]:
    changed = []
    for resource in found:
        tree = copy.deepcopy(resource.tree)
        if resource.kind == "Namespace":
            tree["metadata"]["name"] = namespace
        elif resource.kind not in _WITHOUT_NAMESPACE:
            tree["metadata"]["namespace"] = namespace
        changed.append(replace(resource, tree=tree))
    return changed


def _with_labels(found: list[Resource], entries: Any, file: Path) -> list[Resource]:
    changed = [replace(resource, tree=copy.deepcopy(resource.tree)) for resource in found]
    for entry in entries or ():
        for name in sorted(set(entry) - {"pairs"}):
            raise CheckError(f"{shorter(file)}: labels have {name!r}; known is pairs.", "Take it out.")
        for resource in changed:
            resource.tree["metadata"].setdefault("labels", {}).update(entry["pairs"])
    return changed


def _with_images(found: list[Resource], entries: Any, file: Path) -> list[Resource]:
    for entry in entries or ():
        for name in sorted(set(entry) - {"name", "newName", "newTag"}):
            raise CheckError(
                f"{shorter(file)}: an image has {name!r}; known are name, newName, newTag.", "Take it out."
            )
    changed = [replace(resource, tree=copy.deepcopy(resource.tree)) for resource in found]
    for resource in changed:
        for container in containers_in(resource.tree):
            for entry in entries or ():
                name, tag = split_image(str(container.get("image", "")))
                if name == entry["name"]:
                    tag = str(entry.get("newTag", tag))
                    container["image"] = f"{entry.get('newName', name)}{':' if tag else ''}{tag}"
    return changed


def split_image(image: str) -> tuple[str, str]:
    """Return name and tag of an image; the tag is empty where there is none."""
    folder, slash, last = image.rpartition("/")
    name, _, tag = last.partition(":")
    return f"{folder}{slash}{name}", tag


def containers_in(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every container of an object, wherever it lies."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name in ("containers", "initContainers") and isinstance(value, list):
                yield from (item for item in value if isinstance(item, dict))
            else:
                yield from containers_in(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from containers_in(value)


_Change = Callable[[list[Resource], Any, Path], list[Resource]]
# In Kustomize's order.
_CHANGES: dict[str, _Change] = {
    "patches": _patch,
    "namespace": _with_namespace,
    "labels": _with_labels,
    "images": _with_images,
}
