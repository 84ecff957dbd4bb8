"""The check that a .keras file holds plain Keras layers, before Keras reads it.

Keras's safe mode refuses code as well. This check comes first: it neither imports nor unpacks anything.
"""

from __future__ import annotations

import json
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rayft.errors import PackageError

MODEL_FILE = "model.keras"

_MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
_MAX_CONFIG_BYTES = 64 << 20
# Weights hardly shrink; Keras stores them as they are.
_MAX_RATIO = 20
# Layers that run code of their own, or read other files.
_FORBIDDEN_CLASSES = {
    "FlaxLayer",
    "JaxLayer",
    "Lambda",
    "NNXLayer",
    "TFSMLayer",
    "TorchModuleWrapper",
    "__lambda__",
    "__typespec__",
}
_ALLOWED_MODULES = (
    "keras.activations",
    "keras.constraints",
    "keras.dtype_policies",
    "keras.initializers",
    "keras.layers",
    "keras.models",
    "keras.ops",
    "keras.quantizers",
    "keras.regularizers",
    "keras.src.activations",
    "keras.src.applications",
    "keras.src.dtype_policies",
    "keras.src.initializers",
    "keras.src.layers",
    "keras.src.models",
    "keras.src.ops",
)


def check_model_file(path: Path) -> None:
    """Check a .keras archive: its members, their sizes, and the classes that its config names.

    Raises:
        PackageError: Names the file, the member, and what is wrong.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive.infolist())
            config = json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        # RuntimeError: an encrypted member, or JSON nested too deeply (RecursionError).
        reason = (str(error).splitlines() or [""])[0]
        raise PackageError(
            f"{path} does not load: {type(error).__name__}: {reason}", "Copy or write the package anew."
        ) from None
    for node in _nodes(config):
        _check_class(path, node)


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    for member in members:
        if member.filename not in _MEMBERS:
            raise _refusal(path, f"holds {member.filename!r}; only {', '.join(_MEMBERS)} belong there")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise _refusal(path, f"holds {member.filename!r} as a symbolic link")
        if member.file_size > _MAX_RATIO * member.compress_size + 1024 or (
            member.filename != "model.weights.h5" and member.file_size > _MAX_CONFIG_BYTES
        ):
            raise _refusal(
                path,
                f"is a zip bomb: {member.filename!r} of {member.compress_size} bytes grows to {member.file_size}",
            )
    if len(set(names)) != len(names) or set(names) != set(_MEMBERS):
        raise _refusal(path, f"holds {', '.join(names) or 'nothing'}, not {', '.join(_MEMBERS)} once each")
    if sum(member.compress_size for member in members) > path.stat().st_size:
        raise _refusal(path, "is a zip bomb: its members overlap")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a JSON tree."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _check_class(path: Path, node: dict[str, Any]) -> None:
    name, module = node.get("class_name"), node.get("module")
    for shown in (name, node.get("registered_name")):
        # The closing part of a name is what Keras looks up: "package>Lambda" is a Lambda too.
        if isinstance(shown, str) and shown.rpartition(">")[2] in _FORBIDDEN_CLASSES:
            raise _refusal(path, f"holds a {shown} layer, which may carry code")
    if name is None or not isinstance(module, str):
        return
    plain_function = module == "builtins" and name == "function" and ">" not in str(node.get("config"))
    known = module == "keras" or any(f"{module}.".startswith(f"{allowed}.") for allowed in _ALLOWED_MODULES)
    if not (known or plain_function):
        raise _refusal(path, f"holds a {module}.{name}, which is no layer of Keras")


def _refusal(path: Path, problem: str) -> PackageError:
    return PackageError(f"{path} {problem}.", "Use a network of plain Keras layers; rayft packages no code.")
