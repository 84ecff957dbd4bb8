"""The command `python -m deploy.check [KUSTOMIZATION]...`; without arguments, all of deploy/kubernetes."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.check.findings import CheckError, Finding
from deploy.check.kustomize import render
from deploy.check.manifests import check_objects
from deploy.check.schemas import SETTING, crd_folder

_KUBERNETES = Path(__file__).parents[1] / "kubernetes"


def main(arguments: list[str]) -> int:
    """Print what is wrong, and return 0 where nothing is, 2 otherwise."""
    folders = [Path(text) for text in arguments] or [
        _KUBERNETES / "base",
        *sorted((_KUBERNETES / "overlays").iterdir()),
    ]
    found: list[Finding] = []
    try:
        crds = crd_folder()
        if crds is None:
            print(f"note: without KubeRay's CRDs their schemas are not checked; set {SETTING}.", file=sys.stderr)
        for folder in folders:
            found += check_objects(render(folder), crds)
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Overlays share most of their files.
    for finding in dict.fromkeys(found):
        print(finding)
    print(f"{len(folders)} kustomizations, {len(set(found))} findings", file=sys.stderr)
    return 2 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
