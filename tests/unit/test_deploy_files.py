"""Launcher files fit Ray's schema, the Slurm script parses, images run as nobody special."""

import json
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import pytest
import yaml

from rayft.distributed.allocator import allocator_environment

DEPLOY = Path(__file__).parents[2] / "deploy"
LAUNCHER = sorted((DEPLOY / "clusters").glob("*.yaml"))
IMAGES = sorted((DEPLOY / "docker").glob("*.Dockerfile"))
TOOLS = re.compile(r"build-essential|\bgcc\b|\bmake\b|-dev\b|\bgit\b|apt-get install|pip install")


def launcher_problems(tree):
    schema = json.loads((Path(find_spec("ray").origin).parent / "autoscaler" / "ray-schema.json").read_text())
    found = [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(tree)]
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        if not any("RAY_AUTH_MODE=token" in line for line in tree.get(name, ())):
            found.append(f"{name} start Ray without a token")
    if "auth_token" not in str(tree.get("file_mounts")):
        found.append("file_mounts bring no token")
    return found


def image_problems(text):
    """Return what a Dockerfile does that it must not."""
    text = re.sub(r"(?m)^#.*$", "", text).replace("\\\n", " ")
    found = []
    if not re.search(r"^ARG BASE=\S+:\d+\.\d+\.\d+-\S+$", text, re.M):
        found.append("the base has no whole version")
    stages = {}
    for block in re.split(r"(?m)^(?=FROM )", text)[1:]:
        source, name = re.match(r"FROM (\S+) AS (\S+)", block).groups()
        # A stage has what it is made from.
        stages[name] = stages.get(source, "") + block
    final = list(stages.values())[-1]
    users = re.findall(r"^USER (\S+)$", final, re.M)
    if not users or users[-1].split(":")[0] in ("0", "root"):
        found.append("the last stage runs as root")
    if TOOLS.search(final):
        found.append(f"the last stage has {TOOLS.search(final)[0]!r}")
    if "-c constraints.txt" not in stages["build"]:
        found.append("packages are not pinned")
    if "HEALTHCHECK" not in stages["serve"]:
        found.append("the endpoint has no health check")
    return found


@pytest.mark.parametrize("file", LAUNCHER, ids=lambda file: file.name)
def test_a_launcher_file_fits_the_schema_of_ray(file):
    tree = yaml.safe_load(file.read_text())
    assert launcher_problems(tree) == []
    assert launcher_problems({**tree, "max_worker": 1}) != []
    assert launcher_problems({**tree, "worker_start_ray_commands": ["ray start"]}) != []
    assert launcher_problems({**tree, "file_mounts": {}}) != []


@pytest.mark.parametrize(("cpus", "file"), [(2, "docker/cpu.Dockerfile"), (2, "slurm"), (24, "slurm")])
def test_nodes_keep_the_memory_that_a_step_frees(cpus, file):
    if file == "slurm":
        lines = (DEPLOY / "slurm" / "rayft.sbatch").read_text().splitlines()
        script = "\n".join(line for line in lines if line.startswith("arenas=") or "MALLOC_ARENA_MAX" in line)
        done = subprocess.run(
            ["bash", "-eu"],
            input=f"{script}\nenv",
            env={"PATH": "/usr/bin:/bin", "SLURM_CPUS_PER_TASK": str(cpus)},
            text=True,
            capture_output=True,
            check=True,
        )
        found = done.stdout
    else:
        found = (DEPLOY / file).read_text()
    assert dict(re.findall(r"(MALLOC_\w+)=(\S+)", found)) == allocator_environment(cpus)


def test_the_slurm_script_parses():
    text = (DEPLOY / "slurm" / "rayft.sbatch").read_text()
    for script, works in ((text, True), (text + "\nif\n", False)):
        assert (subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).returncode == 0) == works


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.name)
def test_an_image_is_pinned_runs_as_no_root_and_has_no_tools(file):
    text = file.read_text()
    assert image_problems(text) == []
    for old, new in (
        ("USER 1000:1000", "USER root"),
        ("3.12.12-slim-trixie", "slim"),
        ("FROM ${BASE} AS base", "FROM build AS base"),
        ("-c constraints.txt", ""),
        ("HEALTHCHECK", "# HEALTHCHECK"),
    ):
        assert image_problems(text.replace(old, new)) != [], old
