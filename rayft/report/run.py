"""The page of a finished run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from rayft.config import RunConfig, dump_config
from rayft.evaluation.predictions import read_predictions
from rayft.evaluation.set_predictions import read_sets
from rayft.report.answered import Answered, Pictures
from rayft.report.figures import Line, bars, lines
from rayft.report.page import (
    Cell,
    Section,
    Tile,
    code,
    facts,
    figure,
    fold,
    join,
    notices,
    paragraph,
    render_page,
    table,
)
from rayft.report.sections import show_answers
from rayft.report.set_sections import show_sets
from rayft.runs import RunFolder

# A curve on a page shows no more.
_POINTS = 300


def write_run_report(folder: RunFolder, config: RunConfig, pictures: Pictures | None) -> None:
    """Write ``report.html`` from what else lies in the run's folder.

    Args:
        folder: Of a finished run.
        config: The run.
        pictures: Returns the encoded pictures of examples, by name; None where they cannot be read.
    """
    with tempfile.TemporaryDirectory() as scratch:
        where = folder.storage / "predictions.arrow"
        local = Path(where.root) if where.is_local else Path(scratch) / "predictions.arrow"
        if not where.is_local:
            local.write_bytes(where.read_bytes())
        result, record = folder.result() or {}, folder.record()
        calibration = result.get("calibration", {})
        answered = (
            show_sets(read_sets(local), calibration, pictures)
            if record["multi_label"]
            else show_answers(read_predictions(local), calibration, pictures)
        )
    page = run_page(result, folder.metrics(), record, config, answered)
    (folder.storage / "report.html").write_bytes(page.encode())


def run_page(
    result: dict[str, Any],
    journal: Sequence[dict[str, Any]],
    record: dict[str, Any],
    config: RunConfig,
    answered: Answered,
) -> str:
    """Return the page as HTML.

    Args:
        result: The content of result.json.
        journal: The lines of metrics.jsonl.
        record: The content of package.json.
        config: The run.
        answered: To validation and test; may be empty.
    """
    return render_page(
        config.name,
        f"{config.model.backbone} on {config.data.source}, {len(record['labels'])} classes",
        _tiles(result, answered),
        [
            Section("notices", "Notices", notices(result.get("notices", []))),
            Section("curves", "Learning curves", _curves(result, journal, config)),
            *answered.sections,
            Section("network", "Network", _network(record)),
            Section("time", "Time", _time(result)),
            Section("config", "Config and lineage", _lineage(result, record, config)),
        ],
    )


def _tiles(result: dict[str, Any], answered: Answered) -> list[Tile]:
    final = result["final"]
    prefix = "test_" if "test_accuracy" in final else ""
    tiles = list(answered.tiles)
    for name, words in (("macro_f1", "macro F1"), ("log_loss", "log-loss")):
        if prefix + name in final:
            tiles.append(Tile(words, f"{final[prefix + name]:.3f}", prefix.rstrip("_") or "validation"))
    workers = f"{result['num_workers']} worker{'s' if result['num_workers'] > 1 else ''}"
    return [
        *tiles,
        Tile("best epoch", str(result["best"]["epoch"]), f"of {result['epochs']}"),
        Tile("time", _duration(result["wall_s"]), f"{result['examples_per_s']:,.0f} examples/s, {workers}"),
    ]


def _curves(result: dict[str, Any], journal: Sequence[dict[str, Any]], config: RunConfig) -> Markup:
    if not journal:
        return paragraph("Nothing was logged.")
    per_epoch = result["steps"] / result["epochs"]
    measured = [line for line in journal if "log_loss" in line]
    epochs = [line["step"] / per_epoch for line in measured]
    best = result["best"]["epoch"]
    x, loss = _thin([line["step"] / per_epoch for line in journal], [line["loss"] for line in journal])
    curves = [Line("train", x, loss)]
    if measured:
        curves.append(Line("validation (log-loss)", epochs, [line["log_loss"] for line in measured], is_dotted=True))
    parts = [
        figure(
            lines("loss", curves, x_label="epoch", y_label="loss", mark_x=best if measured else None, mark_name="best"),
            alt=f"Loss by epoch. The training loss goes from {loss[0]:.3f} to {loss[-1]:.3f}"
            + (f", the validation log-loss from {curves[1].y[0]:.3f} to {curves[1].y[-1]:.3f}." if measured else "."),
            caption=_loss_caption(config),
        )
    ]
    metric = config.train.metric
    if measured and metric in measured[0] and metric != "log_loss":
        values = [line[metric] for line in measured]
        parts.append(
            figure(
                lines(
                    "metric",
                    [Line(metric, epochs, values, is_dotted=True)],
                    x_label="epoch",
                    y_label=f"validation {metric}",
                    mark_x=best,
                    mark_name="best",
                ),
                alt=f"Validation {metric} by epoch, from {values[0]:.3f} to {values[-1]:.3f}; best in epoch {best}.",
                caption=f"The epoch with the best validation {metric} is packaged.",
            )
        )
    x, rate = _thin([line["step"] / per_epoch for line in journal], [line["learning_rate"] for line in journal])
    parts.append(
        figure(
            lines("rate", [Line("learning rate", x, rate)], x_label="epoch", y_label="learning rate"),
            alt=f"Learning rate by epoch, at most {max(rate):.2g}.",
            caption=f"{config.optim.name}, {config.optim.schedule}.",
        )
    )
    return Markup('<div class="figures">{}</div>').format(join(*parts))


def _loss_caption(config: RunConfig) -> str:
    smoothed = f", label smoothing {config.train.label_smoothing}" if config.train.label_smoothing else ""
    own = f"{config.train.loss}{smoothed}, " if config.train.loss != "auto" else f"{smoothed[2:]}, " if smoothed else ""
    return f"Training: {own}with dropout and augmentation; hence not quite comparable."


def _thin(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Average neighbours, where there are more points than a plot can show."""
    parts = min(len(x), _POINTS)
    return tuple([float(np.mean(part)) for part in np.array_split(np.asarray(v, float), parts)] for v in (x, y))  # type: ignore[return-value]


def _network(record: dict[str, Any]) -> Markup:
    blocks = record.get("blocks", [])
    total = sum(block["parameters"] for block in blocks)
    frozen = sum(block["parameters"] for block in blocks if block["frozen"])
    told = (
        f"freeze.depth {record['freeze_depth']}: {len(record['blocks_frozen'])} of {max(len(blocks) - 1, 0)} blocks "
        f"were frozen, {frozen:,} of {total:,} parameters; the other {total - frozen:,} were trained."
    )
    rows = [
        [block["name"], block["layers"], block["parameters"], "frozen" if block["frozen"] else "trained"]
        for block in blocks
    ]
    blocks_table = table(
        ["Block", "Layers", "Parameters", "State"],
        [[name, layers, Cell(f"{parameters:,}"), state] for name, layers, parameters, state in rows],
        caption="Blocks of the backbone from the input on, then the head",
    )
    return join(paragraph(told), blocks_table if len(rows) <= 30 else fold(f"All {len(rows)} blocks", blocks_table))


def _time(result: dict[str, Any]) -> Markup:
    spent = {name: seconds for name, seconds in result.get("timing_s", {}).items() if seconds >= 0.005}
    if not spent:
        return paragraph(f"{_duration(result['wall_s'])} in all.")
    total = sum(spent.values())
    chart = figure(
        bars(
            "time",
            list(spent),
            list(spent.values()),
            x_label="seconds",
            texts=[f"{seconds:.1f} s, {seconds / total:.0%}" for seconds in spent.values()],
        ),
        alt="Time by what it was spent on: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items())
        + ".",
        caption="Of the latest start of the run: what came before a resumption is not counted.",
    )
    restarts = result.get("restarts", 0)
    told = (
        f"{_duration(result['wall_s'])} in all; {result['steps']:,} steps of {result['global_batch_size']} examples at "
        f"{result['examples_per_s']:,.0f} examples/s; the workers were restarted {restarts} times."
    )
    return join(paragraph(told), chart)


def _lineage(result: dict[str, Any], record: dict[str, Any], config: RunConfig) -> Markup:
    lineage = record["lineage"]
    pairs = [
        ("Package", str(result.get("package", ""))),
        ("Data", config.data.source),
        ("Data fingerprint", lineage["dataset_fingerprint"]),
        ("Backbone", f"{record['backbone']['name']}, weights {record['backbone']['weights']}"),
        ("Licence", record["licence"]),
        ("Git commit", lineage["git_commit"] or "none: not in a checkout"),
        ("Prefix cache", str(result.get("prefix_cache", {}).get("reason", ""))),
        *((name, version) for name, version in lineage["versions"].items()),
    ]
    return join(facts(pairs), fold("The resolved config", code(dump_config(config))))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
