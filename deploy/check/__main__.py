"""The command `python -m deploy.check [PATH]...`: kustomizations, rules, dashboards; of deploy/ if none is given."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.check.findings import CheckError, Finding
from deploy.check.kustomize import render
from deploy.check.manifests import check_objects
from deploy.check.queries import check_queries
from deploy.check.schemas import SETTING, crd_folder

_DEPLOY = Path(__file__).parents[1]
_KUBERNETES, _MONITORING = _DEPLOY / "kubernetes", _DEPLOY / "monitoring"


def main(arguments: list[str]) -> int:
    """Print what is wrong, and return 0 where nothing is, 2 otherwise."""
    paths = [Path(text) for text in arguments] or [
        _KUBERNETES / "base",
        *sorted((_KUBERNETES / "overlays").iterdir()),
        _MONITORING / "alerts.yml",
        *sorted(_MONITORING.glob("*.json")),
    ]
    files = [path for path in paths if path.is_file()]
    folders = [path for path in paths if path not in files]
    found: list[Finding] = []
    try:
        crds = crd_folder()
        if crds is None and folders:
            print(f"note: without KubeRay's CRDs their schemas are not checked; set {SETTING}.", file=sys.stderr)
        for folder in folders:
            found += check_objects(render(folder), crds)
        for file in files:
            found += check_queries(file)
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Overlays share most of their files.
    for finding in dict.fromkeys(found):
        print(finding)
    print(f"{len(folders)} kustomizations, {len(files)} files of queries, {len(set(found))} findings", file=sys.stderr)
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
