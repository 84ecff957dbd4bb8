"""Blocks of the documentation are configs that load, commands that parse, and code that names what exists."""

import ast
import itertools
import re
import shlex
from pathlib import Path

import pytest
import typer

import rayft
from rayft.cli import app
from rayft.config import parse_config
from rayft.yaml_text import read_yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(*kinds):
    for page in PAGES:
        text = page.read_text()
        for match in BLOCK.finditer(text):
            if match[1] in kinds:
                line = text.count("\n", 0, match.start()) + 1
                yield pytest.param(match[2], id=f"{page.name}:{line}")


def commands():
    for block in blocks("sh", "console"):
        joined = block.values[0].replace("\\\n", " ")
        for number, line in enumerate(joined.splitlines()):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words and Path(words[0]).name == "rayft":
                yield pytest.param(words[1:], id=f"{block.id}+{number}")


@pytest.mark.parametrize("text", list(blocks("yaml")))
def test_a_block_of_yaml_is_a_config_or_a_part_of_one(text):
    tree = read_yaml(text, "a block")
    data = {"source": "pictures", **(tree.get("data") or {})}
    parse_config({**tree, "data": data})


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_parses(words):
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


def test_every_page_is_listed_and_every_link_leads_somewhere():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        if page.parent.name == "docs" and page.name != "README.md":
            assert f"({page.name})" in index, f"docs/README.md does not list {page.name}"
