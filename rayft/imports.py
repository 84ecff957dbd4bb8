"""Functions of the user's own, found by import path."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from rayft.errors import ConfigError


def load_object(path: str, purpose: str) -> Callable[..., Any]:
    """Import ``module:name``; the module may lie in the working directory.

    Args:
        path: Module, colon, name.
        purpose: The setting that asks for it, such as ``train.loss``; for messages.

    Raises:
        ConfigError: The module does not import, lacks the name, or the name is not callable.
    """
    module_name, separator, name = path.partition(":")
    if not (separator and module_name and name):
        raise ConfigError(f"{purpose} is {path!r}; module:function is allowed.", "Example: my_code:my_loss")
    with _working_directory_on_path():
        try:
            module = importlib.import_module(module_name)
        # Importing runs code of the user's own, which may raise anything.
        except Exception as error:
            raise ConfigError(
                f"{purpose} is {path!r}, but importing {module_name!r} failed: {last_place(error)}.",
                f"Make `python -c 'import {module_name}'` work in the folder where rayft is started.",
            ) from error
    if not hasattr(module, name):
        public = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        near = difflib.get_close_matches(name, public, n=3) or public[:10]
        raise ConfigError(
            f"{purpose} is {path!r}, but {module_name!r} has no {name!r}; it has {', '.join(near) or 'nothing'}.",
            "Name a function of that module.",
        )
    found = getattr(module, name)
    if not callable(found):
        raise ConfigError(
            f"{purpose} is {path!r}, which holds {type(found).__name__}, not a function.", "Name a function."
        )
    return found


@contextlib.contextmanager
def _working_directory_on_path() -> Iterator[None]:
    # An installed command, unlike `python script.py`, does not look in the working directory.
    if "" in sys.path:
        yield
        return
    sys.path.insert(0, "")
    try:
        importlib.invalidate_caches()
        yield
    finally:
        sys.path.remove("")


def last_place(error: Exception) -> str:
    """Say what was raised and in which line of which file."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and "importlib" not in frame.filename]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"
