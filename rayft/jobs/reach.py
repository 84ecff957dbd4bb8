"""Whether the places that a job names are the same on the cluster as here."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Sequence

from rayft.config import RunConfig
from rayft.config.problems import IMPORT_PATTERN
from rayft.errors import ConfigError

_FILES = (".keras", ".h5", ".pth", ".pt", ".onnx", ".npz")


def is_here(hosts: Iterable[str]) -> bool:
    """Whether all of a cluster's nodes are this machine, so that its files are theirs.

    A loopback address alone says nothing: it may be forwarded to a cluster elsewhere.
    """
    known = {socket.gethostname(), socket.getfqdn()} - {"localhost", "localhost.localdomain"}
    names = list(hosts)
    return bool(names) and all(name in known for name in names)


def places_of(config: RunConfig) -> list[tuple[str, str]]:
    """Return (field, place) of the files and folders that a run reads or writes."""
    found = [("storage", config.storage), ("data.source", config.data.source)]
    if config.registry.register is not None:
        found.append(("registry.location", config.registry.location or "./registry"))
    for field, value in (("model.weights", config.model.weights), ("model.backbone", config.model.backbone)):
        if value.endswith(_FILES):
            found.append((field, value))
    if config.train.distill is not None:
        found.append(("train.distill.teacher", config.train.distill.teacher))
    return [(field, place) for field, place in found if not re.match(IMPORT_PATTERN, place)]


def places_among(words: Iterable[str]) -> list[tuple[str, str]]:
    """Return (field, place) of the arguments of a command that are places: those with a slash, or that lie here."""
    return [("argument", word) for word in words if not word.startswith("-") and ("/" in word or os.path.exists(word))]


def check_places(places: Sequence[tuple[str, str]]) -> list[str]:
    """Return remarks on places that every node must have; refuse those that mean nothing on another machine.

    Raises:
        ConfigError: A path is relative to the working directory of this client.
    """
    local = [(field, place) for field, place in places if "://" not in place]
    for field, place in local:
        if not os.path.isabs(os.path.expanduser(place)) or place.startswith("~"):
            raise ConfigError(
                f"{field} is {place!r}, a path of this machine; the cluster's nodes are others.",
                "Give a URI that they reach, such as s3://bucket/folder, or the absolute path of a file system that "
                "every node mounts.",
            )
    return [f"{field} is {place}: every node must have it mounted there." for field, place in local]
