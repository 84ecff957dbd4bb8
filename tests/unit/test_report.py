"""Pages are whole, valid and without anything from elsewhere."""

import io
import re

import html5lib
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from rayft.config import parse_config
from rayft.evaluation.answers import Answers
from rayft.evaluation.predictions import read_predictions, write_predictions
from rayft.evaluation.set_predictions import read_sets, write_sets
from rayft.report.figures import Line, lines
from rayft.report.matrix import MATRIX_CLASSES
from rayft.report.page import STRONGEST_SHADE, Section, Tile, paragraph, render_page, table
from rayft.report.run import run_page
from rayft.report.sections import show_answers
from rayft.report.set_sections import show_sets
from rayft.report.thumbnails import thumbnail

SECTIONS = ("curves", "accuracy", "confusion", "classes", "calibration", "mistakes", "network", "time", "config")

SETS_SECTIONS = ("curves", "accuracy", "classes", "together", "calibration", "mistakes", "network", "time", "config")


def png(mode="RGB", size=(300, 200), colour="red", **options):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


def predictions(folder, classes, per_class=6):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(classes)), per_class).astype(np.int32)
    logits = random.normal(0, 1, (len(labels), len(classes))) + 1.5 * np.eye(len(classes))[labels]
    found = [
        Answers(split, pa.array([f"{split}/<{i}>.png" for i in range(len(labels))]), labels, logits)
        for split in ("validation", "test")
    ]
    write_predictions(folder / "p.arrow", found, classes, 1.7)
    return read_predictions(folder / "p.arrow")


def page(folder, classes, several=False, **changes):
    journal = [
        {"epoch": e, "step": s, "loss": 3 / s, "learning_rate": 0.1 / s} for s in range(1, 9) for e in [1 + s // 5]
    ]
    for line in (journal[3], journal[7]):
        line |= {"accuracy": 0.5, "log_loss": 1.0}
    result = {
        "final": {"accuracy": 0.5, "test_accuracy": 0.5, "test_macro_f1": 0.5, "test_log_loss": 1.0},
        "best": {"epoch": 2, "step": 8},
        "epochs": 2,
        "steps": 8,
        "num_workers": 2,
        "global_batch_size": 4,
        "examples_per_s": 12.5,
        "wall_s": 61.0,
        "timing_s": {"reading the data": 1.0, "training steps": 55.5, "package": 0.001},
        "calibration": {"temperature": 1.7, "reason": None},
        "package": "/runs/x/package",
        "notices": ["validation has <few> examples"],
        **changes,
    }
    record = {
        "labels": list(classes),
        "freeze_depth": "all",
        "blocks_frozen": ["stem"],
        "blocks": [
            {"name": "stem", "layers": 3, "parameters": 1000, "frozen": True},
            {"name": "head", "layers": 2, "parameters": 200, "frozen": False},
        ],
        "backbone": {"name": "vgg16", "weights": "imagenet"},
        "licence": "MIT",
        "lineage": {"dataset_fingerprint": "abc", "git_commit": None, "versions": {"rayft": "0.1.0"}},
    }
    config = parse_config({"name": "x", "data": {"source": "<data>"}})
    show, answered = (show_sets, sets) if several else (show_answers, predictions)
    shown = show(answered(folder, classes), result["calibration"], lambda names: [png()] * len(names))
    return run_page(result, journal, record, config, shown)


def sets(folder, classes, examples=100):
    random = np.random.default_rng(0)
    labels = random.random((examples, len(classes))) < 0.3
    logits = random.normal(0, 2, labels.shape) + 2 * labels - 1
    names = pa.array([f"<{i}>.png" for i in range(examples)])
    write_sets(folder / "s.arrow", [Answers("test", names, labels, logits)], classes, 1.7)
    return read_sets(folder / "s.arrow")


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    return page(tmp_path_factory.mktemp("report"), ("cat & dog", "<eel>", "fox"), several=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return page(tmp_path_factory.mktemp("report"), ("cat & dog", "<eel>", "fox"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return page(tmp_path_factory.mktemp("report"), tuple(f"class {i}" for i in range(200)))


def parsed(text):
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


@pytest.mark.parametrize("kind", ["small", "large", "several"])
def test_it_is_valid_has_every_section_and_needs_nothing_from_elsewhere(kind, request):
    text = request.getfixturevalue(kind)
    tree = parsed(text)
    wanted = SETS_SECTIONS if kind == "several" else SECTIONS
    assert [node.get("id") for node in tree.iter("section")][-len(SECTIONS) :] == list(wanted)
    links = [node.get(name) for node in tree.iter() for name in ("src", "href", "srcset", "action") if node.get(name)]
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert "@import" not in text
    assert re.search(r"url\((?!#)", text) is None
    assert list(tree.iter("script")) == []
    assert "http" not in re.sub(r'data:[^"]*', "", text)


@pytest.mark.parametrize("kind", ["small", "several"])
def test_ids_are_unique_and_references_inside_lead_somewhere(kind, request):
    text = request.getfixturevalue(kind)
    nodes = list(parsed(text).iter())
    ids = [node.get("id") for node in nodes if node.get("id")]
    assert len(ids) == len(set(ids))
    wanted = {node.get("href")[1:] for node in nodes if (node.get("href") or "").startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert wanted <= set(ids)


@pytest.mark.parametrize("kind", ["small", "several"])
def test_figures_tables_and_pictures_say_what_they_are(kind, request):
    tree = parsed(request.getfixturevalue(kind))
    pictures = list(tree.iter("img"))
    assert pictures
    assert all(node.get("alt") and node.get("width") and node.get("height") for node in pictures)
    assert all(next(node.iter("div")).get("aria-label") for node in tree.iter("figure"))
    for node in tree.iter("table"):
        assert next(node.iter("caption")).text
        assert all(cell.get("scope") == "col" for row in node.iter("thead") for cell in row.iter("th"))
        assert all(cell.get("scope") == "row" for row in node.iter("tbody") for cell in row.iter("th"))


@pytest.mark.parametrize("kind", ["small", "several"])
def test_names_from_data_are_text_not_markup(kind, request):
    text = request.getfixturevalue(kind)
    assert "<eel>" not in text
    assert "&lt;eel&gt;" in text
    assert "validation has &lt;few&gt; examples" in text


def test_a_page_of_several_labels_shows_both_kinds_of_mistakes(several):
    assert several.count("<img") == 24
    for words in ("mean AP", "whole set right", "together with", "Answered and not there", "There and missed"):
        assert words in several


def test_many_classes_get_a_map_and_the_worst_of_them(large, small):
    assert MATRIX_CLASSES < 200
    assert "answered as" in small
    assert "answered as" not in large.replace("Answered as", "")
    assert "The 20 classes with the lowest F1" in large
    assert "All 200 classes" in large
    assert len(large) < 1_500_000


def test_colours_follow_the_scheme(small):
    drawn = "".join(re.findall(r"<svg.*?</svg>", small, re.DOTALL))
    assert re.findall(r"#0[0-9]0[0-9]0[0-9]", drawn) == []
    assert "var(--series-1)" in drawn
    assert "prefers-color-scheme: dark" in small


def contrast(first, second):
    """WCAG 2.2's ratio of two colours, #rrggbb."""

    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def blend(above, below, strength):
    pairs = [(int(above[at : at + 2], 16), int(below[at : at + 2], 16)) for at in (1, 3, 5)]
    parts = [round(strength * over + (1 - strength) * under) for over, under in pairs]
    return "#" + "".join(f"{part:02x}" for part in parts)


def test_text_and_curves_stand_out_on_every_paper(small):
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root {(.*?)}", small, re.S)
    ]
    assert len(schemes) == 3
    for colours in schemes:
        for paper in ("paper", "panel"):
            assert contrast(colours["ink"], colours[paper]) >= 7
            assert contrast(colours["quiet"], colours[paper]) >= 4.5
        assert contrast(colours["accent"], colours["paper"]) >= 4.5
        assert contrast(colours["ink"], blend(colours["accent"], colours["paper"], STRONGEST_SHADE)) >= 4.5
        for series in range(1, 5):
            assert contrast(colours[f"series-{series}"], colours["paper"]) >= 3


def test_the_same_figure_is_drawn_the_same_twice():
    curve = [Line("a", [0, 1, 2], [1.0, None, 0.5])]
    first, second = (lines("one", curve, x_label="x", y_label="y") for _ in range(2))
    assert first == second


def test_a_run_without_evaluation_splits_still_has_its_page(tmp_path):
    write_predictions(tmp_path / "p.arrow", [], ("a", "b"), 1.0)
    empty = read_predictions(tmp_path / "p.arrow")
    config = parse_config({"name": "x", "data": {"source": "d"}})
    result = {"final": {}, "best": {"epoch": 1}, "epochs": 1, "steps": 2, "num_workers": 1, "wall_s": 1.0}
    result |= {"global_batch_size": 2, "examples_per_s": 1.0}
    journal = [{"epoch": 1, "step": 2, "loss": 1.0, "learning_rate": 0.1}]
    record = {"labels": ["a", "b"], "freeze_depth": 0, "blocks_frozen": [], "licence": "MIT"}
    record |= {"backbone": {"name": "n", "weights": "w"}}
    record |= {"lineage": {"dataset_fingerprint": "f", "git_commit": "c", "versions": {}}}
    parsed(run_page(result, journal, record, config, show_answers(empty, {}, None)))


def test_thumbnails_are_small_upright_and_over_white():
    content, width, height = thumbnail(png("RGBA", (320, 160), (0, 0, 0, 0)))
    assert (width, height) == (160, 80)
    assert len(content) < 2000
    assert Image.open(io.BytesIO(content)).getpixel((5, 5)) == (255, 255, 255)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    assert thumbnail(png(size=(320, 160), exif=sideways))[1:] == (80, 160)


def test_another_page_can_be_made_of_the_same_parts():
    text = render_page(
        "Sweep <1>",
        "two trials",
        [Tile("best", "0.9")],
        [
            Section("trials", "Trials", table(["Trial", "Accuracy"], [["a", 0.5], ["b", None]], caption="Trials")),
            Section("empty", "Left out", paragraph("")[:0]),
        ],
    )
    tree = parsed(text)
    assert [cell.text for cell in tree.iter("td")] == ["0.500", "-"]
    assert "Left out" not in text
