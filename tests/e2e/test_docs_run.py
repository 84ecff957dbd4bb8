"""Every block of the documentation runs, in the order of its page."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from doc_blocks import PAGES, ROOT, SHELL, blocks_of, name_of
from kinds_of_data import PICTURES, balanced_folders

# The rest needs minutes: `make test-full`.
IN_THE_GATE = ("docs/data.md", "docs/packages.md", "docs/prefix-cache.md", "docs/tracking.md")
# What a page takes for granted.
CONFIG = """
name: pictures
data: {source: examples/data/pictures.parquet, image_size: 32}
model: {backbone: none, pooling: flatten, hidden: [8]}
freeze: {depth: 0}
train: {epochs: 2}
"""
FILES = {
    "docs/observability.md": {"config.yaml": CONFIG.replace("name: pictures", "name: logged")},
    "docs/registry.md": {"gate.yaml": "max_size_mb: 50\n"},
    "docs/sweep.md": {
        "config.yaml": """
name: search
data: {source: examples/data/pictures.parquet, image_size: 32}
train: {epochs: 2}
sweep: {trials: 4}
"""
    },
}
# Their own runs have the name of the one that other pages find there.
WITHOUT_RUNS = ("docs/init.md", "docs/python.md", "docs/validate.md")
RUNNABLE = [
    page
    for page in PAGES
    if any(block.not_run is None and block.kind in (*SHELL, "python") for block in blocks_of(page))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the pages describe it: examples with fewer pictures, photos, two finished runs."""
    home = tmp_path_factory.mktemp("docs")
    shutil.copytree(ROOT / "examples", home / "examples", ignore=shutil.ignore_patterns("__pycache__", "*.parquet"))
    pictures = pq.read_table(PICTURES)
    kept, seen = [], {}
    for row, key in enumerate(zip(pictures["label"].to_pylist(), pictures["split"].to_pylist(), strict=True)):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= (12 if key[1] == "train" else 4):
            kept.append(row)
    pq.write_table(pictures.take(pa.array(kept)), home / "examples" / "data" / "pictures.parquet")
    photos = balanced_folders(home)
    (home / "some").mkdir()
    shutil.copy(photos / "sea" / "0.png", home / "some" / "picture.jpg")
    shutil.copy(photos / "sea" / "0.png", home / "picture.png")
    for folder in (home / "bin", home / ".venv" / "bin"):
        folder.mkdir(parents=True)
        (folder / "rayft").write_text(f'#!/bin/sh\nexec {sys.executable} -m rayft "$@"\n')
        (folder / "rayft").chmod(0o755)
    (home / "tiny.yaml").write_text(CONFIG)
    run(home, str(home / "bin" / "rayft"), "train", "tiny.yaml")
    shutil.copytree(home / "runs" / "pictures", home / "runs" / "better")
    return home


def run(home, *command):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {
        **os.environ,
        "HOME": str(home / "home"),
        "PATH": f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": path,
    }
    done = subprocess.run(
        command, cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=560
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name_of(page), marks=[] if name_of(page) in IN_THE_GATE else pytest.mark.full)
        for page in RUNNABLE
    ],
)
def test_the_blocks_of_a_page_run_in_order(page, place, tmp_path):
    home = tmp_path / "home"
    shutil.copytree(place, home, symlinks=True)
    if name_of(page) in WITHOUT_RUNS:
        shutil.rmtree(home / "runs")
    for name, text in FILES.get(name_of(page), {}).items():
        (home / name).write_text(text)
    told = run(home, sys.executable, str(Path(__file__).parents[1] / "doc_blocks.py"), str(page))
    wanted = [block.name for block in blocks_of(page) if block.kind in (*SHELL, "python")]
    skipped = [block.name for block in blocks_of(page) if block.not_run is not None]
    assert [name for name in wanted if f"--- {name}\n" not in told] == skipped
