"""An endpoint as a config file of Ray Serve, for a cluster that is run by such files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rayft.config import ServeConfig
from rayft.errors import StorageError
from rayft.yaml_text import write_yaml

APP_NAME = "rayft"


def declaration(config: ServeConfig) -> dict[str, Any]:
    """Return the content of a config that `serve deploy` accepts; the cluster needs rayft installed."""
    arguments = config.model_dump(mode="json", exclude_defaults=True, exclude={"address"})
    return {
        "proxy_location": "Disabled",
        "applications": [
            {"name": APP_NAME, "route_prefix": None, "import_path": "rayft.serve.app:build", "args": arguments}
        ],
    }


def write_declaration(config: ServeConfig, path: Path) -> None:
    """Write the config file.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        path.write_text(write_yaml(declaration(config)), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"Cannot write {str(path)!r}: {error.strerror}.", "Give another place.") from None
