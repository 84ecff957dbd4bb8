"""Blocks of the documentation are configs that load, commands that parse, and code that names what exists."""

import ast
import collections
import itertools
import re
import shlex
from pathlib import Path

import pytest
import typer
from doc_blocks import PAGES, ROOT, SHELL, blocks_of, name_of

import rayft
from rayft.cli import app
from rayft.config import ServeConfig, check_section, parse_config
from rayft.yaml_text import read_yaml

# Blocks of each page that tests/e2e/test_docs_run.py leaves out; the page says why.
NOT_RUN = {
    "README.md": 2,
    "docs/deploy.md": 5,
    "docs/endpoint.md": 3,
    "docs/faults.md": 1,
    "docs/jobs.md": 5,
    "docs/observability.md": 1,
    "docs/serving.md": 2,
    "docs/tracking.md": 2,
}


def blocks(*kinds):
    for page in PAGES:
        for block in blocks_of(page):
            if block.kind in kinds:
                yield pytest.param(block.text, id=block.name)


def commands():
    for page in PAGES:
        for block in blocks_of(page):
            if block.kind not in SHELL:
                continue
            exported = {}
            for number, line in enumerate(block.commands.replace("\\\n", " ").splitlines()):
                words = shlex.split(line, comments=True)
                if words and words[0] == "export":
                    exported.update(word.split("=", 1) for word in words[1:])
                if words and Path(words[0]).name == "rayft":
                    yield pytest.param(words[1:], exported, id=f"{block.name}+{number}")


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_a_block_of_yaml_is_a_config_or_a_part_of_one(text):
    tree = read_yaml(text, "a block")
    if "models" in tree:
        check_section(ServeConfig, tree)
        return
    data = {"source": "pictures", **(tree.get("data") or {})}
    parse_config({**tree, "data": data})


@pytest.mark.parametrize(("words", "exported"), list(commands()))
def test_a_command_parses(words, exported, monkeypatch):
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    group = typer.main.get_command(app)
    for depth in itertools.count():
        if not hasattr(group, "commands"):
            break
        group = group.commands[words[depth]]
    group.make_context("rayft", list(words[depth:]))


@pytest.mark.parametrize("text", list(blocks("python")))
def test_a_block_of_python_compiles_and_uses_public_names(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rayft":
            assert node.attr in rayft.__all__


def test_few_blocks_are_not_run_and_each_says_why():
    skipped = [block for page in PAGES for block in blocks_of(page) if block.not_run is not None]
    for block in skipped:
        print(f"{block.name} {block.not_run}: {block.text.splitlines()[0]}")
    assert collections.Counter(name_of(block.page) for block in skipped) == NOT_RUN
    # A comment that is not read would leave its block to be run, or to be forgotten.
    for page in PAGES:
        assert page.read_text().count("<!-- not run:") == NOT_RUN.get(name_of(page), 0), page


def test_commands_stand_in_blocks_that_are_run():
    for page in PAGES:
        indented = re.findall(r"^ {4}(?:\S*/)?(?:rayft|make|python) .*$", page.read_text(), re.M)
        assert indented == [], page


def test_every_page_is_listed_and_every_link_leads_somewhere():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        if page.parent.name == "docs" and page.name != "README.md":
            assert f"({page.name})" in index, f"docs/README.md does not list {page.name}"
