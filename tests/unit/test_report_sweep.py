import re
from dataclasses import replace

import html5lib
import pytest

from rayft.config import parse_config
from rayft.report.sweep import sweep_page
from rayft.sweep.choose import best_epoch
from rayft.sweep.outcome import summarise
from rayft.sweep.record import Trial

SPACE = {
    "freeze.depth": {"choice": [3, 5, "all"]},
    "optim.learning_rate": {"loguniform": [1e-4, 1e-1]},
    "optim.weight_decay": {"uniform": [0, 0.1], "when": "freeze.depth < all"},
}
CONFIG = parse_config({"name": "page", "data": {"source": "<b>"}, "sweep": {"space": SPACE}})


def trial(index, depth, rate, accuracy, **more):
    curve = [
        {"epoch": n, "step": n, "loss": 1.0, "learning_rate": rate, "examples_per_s": 9.0, "log_loss": 1.0}
        | {"accuracy": accuracy * n / 2}
        for n in (1, 2)
    ]
    params = {"freeze.depth": depth, "optim.learning_rate": rate}
    fields = {
        "id": f"{index:04d}",
        "index": index,
        "role": "search",
        "params": params if depth == "all" else {**params, "optim.weight_decay": 0.05},
        "seed": 0,
        "kind": "light",
        "state": "finished",
        "curve": tuple(curve),
        "epochs": 2,
        "best": best_epoch(curve, "accuracy"),
        "train_s": 3.0 + index,
        "latency_ms": 5.0 + index,
    }
    return Trial(**{**fields, **more})


def make_page(winner=(), **changes):
    final = {"accuracy": 0.8, "test_accuracy": 0.75}
    summary = {"final": final, "best": {"epoch": 2, "step": 2}, "package": "somewhere", "notices": ["109 examples"]}
    trials = [
        trial(0, "all", 1e-3, 0.6, baseline=True),
        trial(1, 3, 1e-2, 0.8),
        trial(2, 5, 1e-4, 0.7, state="stopped"),
        trial(3, 5, 3e-2, 0.75),
        trial(4, 3, 1e-1, 0.0, state="failed", error="loss is <nan>", best=None, curve=()),
        trial(1, 3, 1e-2, 0.82, role="repeat", id="0001-seed1", seed=1),
        trial(1, 3, 1e-2, 0.8, role="winner", id="winner", summary=summary, **dict(winner)),
    ]
    trials = [replace(each, **changes) for each in trials]
    known = {each.id: each for each in trials}
    space = CONFIG.sweep.space
    return sweep_page(summarise(CONFIG, space, known), known, CONFIG, space)


@pytest.fixture(scope="module")
def page():
    return make_page()


def words(page):
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_the_page_is_whole_html_of_one_file(page):
    html5lib.HTMLParser(strict=True).parse(page)
    # Importance, coordinates, curves, and two trade-offs; the surface is a table.
    assert page.count("<svg") == 5
    assert "<b>" not in page
    assert not re.search(r'(?:src|href)="https?:', page)


def test_the_page_says_what_to_take_and_what_it_costs(page):
    text = words(page)
    assert "Take trial 0001: freeze.depth 3, optim.learning_rate 0.01" in text
    assert "instead of the config as it is, trial 0000: +20.0 points for 1.3x the time per epoch" in text
    assert "depth 3 instead of 5: +5.0 points for 0.7x the time per epoch" in text
    assert "109 examples" in text
    assert "Its accuracy is 0.8000 on the validation split, 0.7500 on the test split." in text
    assert "Trial 0004 failed: loss is &lt;nan&gt;" in text


def test_every_trial_but_the_packaging_is_listed(page):
    rows = re.findall(r'<th scope="row">(\d{4}[^<]*)</th>', page[page.index('id="trials"') :])
    assert rows == ["0000", "0001", "0002", "0003", "0004", "0001-seed1"]


def test_the_page_says_that_the_winner_was_trained_anew():
    text = words(make_page({"refit": True}))
    assert "learning_rate 0.01, weight_decay 0.05, trained anew on train and validation together. Its" in text
    assert "0.8000 on the validation split before that, 0.7500 on the test split." in text


def test_one_latency_is_said_in_words_and_not_drawn():
    page = make_page(latency_ms=7.364)
    assert page.count("<svg") == 4
    assert "All these trials answer one picture in 7.36 ms" in words(page)
