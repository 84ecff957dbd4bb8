import re
from pathlib import Path

from rayft import cli
from rayft.config import RunConfig
from rayft.config.reference import _anchor, reference, serve_reference

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_committed_page_is_what_the_schema_says():
    # Made anew by: rayft schema --markdown > docs/config.md
    assert PAGE.read_text() == reference()


def test_every_field_of_every_section_is_there_with_its_description():
    definitions = RunConfig.model_json_schema()["$defs"]
    text = reference()
    for name, definition in definitions.items():
        for field, about in definition["properties"].items():
            described = about["description"].replace("|", r"\|").replace("<", "&lt;")
            assert re.search(rf"\| `{field}` \|.*\| {re.escape(described)} \|", text), f"{name}.{field}"


def test_every_link_of_the_page_leads_to_a_section():
    text = reference()
    anchors = {_anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert len(links) > 15
    assert links <= anchors


def test_the_command_prints_the_page(capsys):
    assert cli.main(["schema", "--markdown"]) == 0
    assert capsys.readouterr().out == reference()


def test_the_page_of_the_endpoint_is_what_its_schema_says():
    # Made anew by: rayft schema --serve --markdown > docs/serving-config.md
    assert PAGE.with_name("serving-config.md").read_text() == serve_reference()
