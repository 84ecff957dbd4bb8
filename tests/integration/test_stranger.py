"""From a checkout to the first job on a cluster: docs/jobs.md, each command as written."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from doc_blocks import ROOT, SHELL, blocks_of
from host_cluster import S3_PORT, cluster
from host_store import KEYS
from hosts import why_not
from kinds_of_data import balanced_folders

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(3600),
]

PAGE = ROOT / "docs" / "jobs.md"
PATIENCE_S = 1200
# Where the page's blocks of commands belong, in its order.
PLACES = [
    "on every machine",
    "on the head node",
    "on each further node",
    "on your own machine",
    "on your own machine",
]
# Names come from /etc/hosts. This machine's DNS server cannot be reached from a host, and who asks it waits; not where
# it refuses at once.
NO_DNS = "echo nameserver 127.0.0.1 > resolv.conf && mount --bind resolv.conf /etc/resolv.conf"
# A folder with such an environment already: its own is then not made.
READY = "RAYFT_STRANGER_CHECKOUT"


def shell(commands, folder, **options):
    """Run a block as a person does who looks at what each line says."""
    return subprocess.run(["bash", "-euxo", "pipefail", "-c", commands], cwd=folder, check=True, **options)


@pytest.fixture(scope="module")
def blocks():
    return [block for block in blocks_of(PAGE) if block.kind in SHELL]


@pytest.fixture(scope="module")
def checkout(blocks, tmp_path_factory):
    """A clone of what is committed, with an environment of its own."""
    if READY in os.environ:
        return Path(os.environ[READY])
    folder = tmp_path_factory.mktemp("stranger") / "rayft"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    shell(blocks[0].commands, folder, env=variables, timeout=PATIENCE_S)
    return folder


def on(host, checkout, commands):
    """Run commands in a host's home, in the environment of the checkout; returns what they said."""
    out = host.file("said.txt")
    out.write_text("")
    process = host.start(
        "bash", "-euxo", "pipefail", "-c", f"set +x; . {checkout}/.venv/bin/activate; set -x\n{commands}", out=out
    )
    code = process.wait(PATIENCE_S)
    said = out.read_text()
    print(f"--- {host.name}\n{said}", flush=True)
    return code, said


def start_ray(host, checkout, commands):
    """Start a node; once more where a loaded machine was too slow for Ray's patience."""
    for _ in range(3):
        code, said = on(host, checkout, commands)
        if code == 0:
            return
        host.signal("", signal.SIGKILL)
    raise AssertionError(said)


def test_the_page_leads_from_a_checkout_to_a_job_on_three_hosts(blocks, checkout):
    assert [block.not_run for block in blocks] == PLACES
    _, head, join, copy, first_job = (block.commands for block in blocks)
    # Nothing of this side's environment: the machines have what the page says, and the store's address.
    bare = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": "",
        "AWS_ENDPOINT_URL": f"http://store:{S3_PORT}",
        **KEYS,
    }
    with cluster((), start=False) as made:
        *nodes, own = [made.net.host(name, variables=bare) for name in ("head", "one", "two", "own")]
        for machine in (*nodes, own):
            machine.run("sh", "-c", NO_DNS)
        start_ray(nodes[0], checkout, head)
        token = nodes[0].file(".ray/auth_token")
        assert token.stat().st_mode & 0o777 == 0o600
        for machine in (*nodes[1:], own):
            machine.file(".ray").mkdir()
            machine.file(".ray/auth_token").touch(0o600)
            machine.file(".ray/auth_token").write_text(token.read_text())
        for node in nodes[1:]:
            start_ray(node, checkout, join)

        balanced_folders(own.file("."))
        code, said = on(own, checkout, copy)
        assert code == 0, said
        assert len([name for name in made.names("photos") if name.endswith(".png")]) > 20
        for block in blocks_of(PAGE):
            if block.file is not None:
                own.file(block.file).write_text(block.text)
        code, said = on(own, checkout, first_job)
        assert code == 0, said
        assert "submitted pets as job" in said
        assert "pets is finished" in said
        assert "submitted pets-sweep again as job" in said
        assert "Traceback" not in said
        assert any(name.endswith("package/model.keras") for name in made.names("runs/pets"))
