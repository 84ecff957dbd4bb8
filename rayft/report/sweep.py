"""The page of a finished sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from rayft.config import RunConfig, dump_config
from rayft.report.figures import GRID, INK, SERIES, bars, draw
from rayft.report.page import (
    Cell,
    Section,
    Tile,
    code,
    figure,
    fold,
    join,
    notices,
    paragraph,
    render_page,
    table,
)
from rayft.screen import format_duration
from rayft.sweep.choose import rank
from rayft.sweep.findings import Findings, Point, Surface, find
from rayft.sweep.record import SweepFolder, Trial
from rayft.sweep.space import Space, describe, format_value, searched

_CURVES = 40
# Costs further apart than this are drawn on a logarithmic axis.
_WIDE = 20


def write_sweep_report(folder: SweepFolder, config: RunConfig, space: Space) -> None:
    """Write ``report.html`` from what else lies in the sweep's folder."""
    page = sweep_page(folder.run.result() or {}, folder.trials(), config, space)
    (folder.storage / "report.html").write_bytes(page.encode())


def sweep_page(result: Mapping[str, Any], trials: Mapping[str, Trial], config: RunConfig, space: Space) -> str:
    """Return the page as HTML.

    Args:
        result: The content of result.json.
        trials: All trials, by id.
        config: The sweep.
        space: Searched fields.
    """
    metric = result["metric"]
    found = find(trials, space, metric)
    if found is None:
        raise ValueError("A sweep without a metric has no report.")
    failed = [f"Trial {trial.id} failed: {trial.error}" for trial in trials.values() if trial.state == "failed"]
    return render_page(
        config.name,
        f"Sweep of {result['trials']} trials over {', '.join(space)}: {config.model.backbone} on {config.data.source}",
        _tiles(result),
        [
            Section("notices", "Failed trials", notices(failed)),
            Section("advice", "Recommendation", _advice(result, found)),
            Section("surface", "Response surface", _surface(found.surface, metric)),
            Section("importance", "Importance", _importance(found)),
            Section("coordinates", "Parallel coordinates", _coordinates(trials, space, found)),
            Section("curves", "Learning curves", _curves(trials, found)),
            Section("tradeoffs", "Metric against cost", _tradeoffs(found)),
            Section("trials", "Trials", _table(trials, metric)),
            Section("config", "Config", fold("The sweep's config", code(dump_config(config)))),
        ],
    )


def _tiles(result: Mapping[str, Any]) -> list[Tile]:
    tiles = [
        Tile(f"best {result['metric']}", f"{result['best_value']:.3f}", f"validation, trial {result['best_trial']}"),
        *(Tile(f"test {result['metric']}", f"{value:.3f}", "never seen by the search") for value in _tested(result)),
        Tile("trials", str(result["trials"]), ", ".join(f"{n} {state}" for state, n in result["trial_states"].items())),
    ]
    return [*tiles, Tile("time", format_duration(result["wall_s"]), "in all")] if "wall_s" in result else tiles


def _tested(result: Mapping[str, Any]) -> list[float]:
    name = f"test_{result['metric']}"
    return [result["final"][name]] if name in result["final"] else []


def _advice(result: Mapping[str, Any], found: Findings) -> Markup:
    first, *others = found.advice
    refit = result["refit"]
    text = f"The package holds this trial, {describe(result['best_params'])}"
    text += ", trained anew on train and validation together" if refit else ""
    text += f". Its {found.metric} is {result['best_value']:.4f} on the validation split"
    text += " before that" if refit else ""
    text += "".join(f", {value:.4f} on the test split" for value in _tested(result)) + "."
    parts = [paragraph(first), paragraph(text)]
    if others:
        parts.append(
            table(["Against others"], [[line] for line in others], caption="What was gained, and at what cost")
        )
    parts.extend(paragraph(each) for each in result.get("notices", []))
    if result["seeds"]:
        rows = [
            [each["trial"], each["seeds"], each["mean"], _interval(each["low"], each["high"])]
            for each in result["seeds"]
        ]
        parts.append(
            table(
                ["Trial", "Seeds", f"Mean {found.metric}", "95 % t-interval"],
                rows,
                caption="Finalists, repeated with other seeds; overlapping intervals cannot be told apart",
            )
        )
    return join(*parts)


def _interval(low: float | None, high: float | None) -> str:
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _surface(surface: Surface | None, metric: str) -> Markup:
    if surface is None:
        return Markup("")
    known = [value for row in surface.values for value in row if value is not None]
    low, spread = min(known), max(max(known) - min(known), 1e-12)
    rows = [
        [
            str(depth),
            *(
                Cell("-") if value is None else Cell(f"{value:.3f}", 0.08 + 0.8 * (value - low) / spread)
                for value in row
            ),
        ]
        for depth, row in zip(surface.depths, surface.values, strict=True)
    ]
    return table(
        ["Depth", *(format_value(rate) for rate in surface.rates)],
        rows,
        caption=f"Best validation {metric} by freeze depth (rows) and learning rate (columns); a darker cell is larger",
    )


def _importance(found: Findings) -> Markup:
    if not found.importances:
        return Markup("")
    chart = figure(
        bars(
            "importance",
            [each.field for each in found.importances],
            [each.share for each in found.importances],
            x_label=f"part of the variance of {found.metric}",
            texts=[f"{each.share:.0%}" for each in found.importances],
        ),
        alt="Importance of each field: "
        + ", ".join(f"{each.field} {each.share:.0%}" for each in found.importances)
        + ".",
        caption="How much of the difference between trials the field explains by itself, out of sample."
        + ("" if any(each.share for each in found.importances) else " So few trials show none."),
    )
    return chart


def _coordinates(trials: Mapping[str, Trial], space: Space, found: Findings) -> Markup:
    ranked = rank(trials.values(), found.metric)
    if len(ranked) < 2:
        return Markup("")
    axes_of = [path for path in space if any(path in trial.params for trial in ranked)]
    columns = [_positions([trial.params.get(path) for trial in ranked]) for path in axes_of]
    metrics = [float(trial.metric(found.metric) or 0.0) for trial in ranked]
    columns.append(_positions(metrics))

    def plot(axes: Any) -> None:
        places = np.arange(len(columns))
        for index in reversed(range(len(ranked))):
            heights = [np.nan if column[0][index] is None else column[0][index] for column in columns]
            share = columns[-1][0][index] or 0.0
            best = ranked[index].id == found.winner
            axes.plot(
                places,
                np.array(heights, float),
                color=SERIES[1] if best else SERIES[0],
                alpha=1.0 if best else 0.15 + 0.6 * share,
                linewidth=2.4 if best else 1.2,
                marker="o",
                markersize=3,
            )
        for place, (_, ticks) in enumerate(columns):
            axes.axvline(place, color=GRID, linewidth=1)
            for height, text in ticks:
                axes.annotate(text, (place, height), (4, 0), textcoords="offset points", fontsize=8, color=INK)
        axes.set_xticks(places, [*(path.rpartition(".")[2] for path in axes_of), found.metric])
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.set_ylim(-0.06, 1.06)
        axes.set_xlim(-0.1, len(columns) - 0.7)

    best = next(trial for trial in ranked if trial.id == found.winner)
    return figure(
        draw("coordinates", plot, size=(7.2, 3.6)),
        alt=f"One line for each of {len(ranked)} trials over the searched fields and {found.metric}; "
        f"the best runs through {describe(best.params)}.",
        caption="One line is one trial; the best stands out.",
    )


def _positions(values: Sequence[Any]) -> tuple[list[float | None], list[tuple[float, str]]]:
    """Return heights in 0..1 for values, None for absent ones, and (height, text) of the ticks."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, float) for value in known) and len(set(known)) > 1:
        low, high = min(known), max(known)
        scale = np.log if low > 0 and high / low > 20 else np.asarray
        ends = scale(np.array([low, high]))
        heights = [None if v is None else float((scale(np.array(v)) - ends[0]) / (ends[1] - ends[0])) for v in values]
        return heights, [(0.0, format_value(low)), (1.0, format_value(high))]
    kinds = sorted(set(map(str, known)), key=lambda text: (text == "all", not text.isdecimal(), text.zfill(9)))
    step = {text: place / max(len(kinds) - 1, 1) for place, text in enumerate(kinds)}
    return [None if value is None else step[str(value)] for value in values], [(step[text], text) for text in kinds]


def _curves(trials: Mapping[str, Trial], found: Findings) -> Markup:
    ranked = [trial for trial in rank(trials.values(), found.metric) if trial.curve][:_CURVES]

    def plot(axes: Any) -> None:
        for trial in reversed(ranked):
            best = trial.id == found.winner
            axes.plot(
                [line["epoch"] for line in trial.curve],
                [line[found.metric] for line in trial.curve],
                color=SERIES[1] if best else SERIES[0],
                alpha=1.0 if best else 0.45,
                linewidth=2.4 if best else 1.2,
                # One epoch is no line.
                marker="o" if len(trial.curve) == 1 else None,
                markersize=3,
                label=f"trial {trial.id}" if best else None,
            )
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation {found.metric}")
        axes.legend(loc="best", fontsize=9)

    return figure(
        draw("curves", plot, size=(7.2, 3.6)),
        alt=f"Validation {found.metric} by epoch of {len(ranked)} trials; the best is trial {found.winner}.",
        caption="Lines that end early belong to trials that were stopped.",
    )


def _tradeoffs(found: Findings) -> Markup:
    parts = [_front("time", found.by_time, found, "seconds of training")]
    latencies = {point.cost for point in found.by_latency}
    if len(latencies) > 1:
        parts.append(_front("latency", found.by_latency, found, "milliseconds for one picture"))
    fronts = Markup('<div class="figures">{}</div>').format(join(*parts))
    if len(latencies) != 1:
        return fronts
    same = (
        f"All these trials answer one picture in {latencies.pop():.3g} ms: they have one network, trained differently."
    )
    return join(fronts, paragraph(same))


def _front(name: str, points: Sequence[Point], found: Findings, x_label: str) -> Markup:
    front = [point for point in points if point.on_front]

    def plot(axes: Any) -> None:
        axes.scatter([point.cost for point in points], [point.value for point in points], color=SERIES[0], s=14)
        axes.plot([point.cost for point in front], [point.value for point in front], color=SERIES[1], marker="o")
        for point in front:
            axes.annotate(point.trial, (point.cost, point.value), (4, 4), textcoords="offset points", fontsize=8)
        if points[-1].cost > _WIDE * points[0].cost > 0:
            axes.set_xscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(found.metric)

    named = ", ".join(f"trial {point.trial} ({point.value:.3f} at {point.cost:.3g})" for point in front)
    return figure(
        draw(f"front-{name}", plot, size=(5.2, 3.2)),
        alt=f"Validation {found.metric} against {x_label}; not beaten in both: {named}.",
        caption="The line joins the trials that no other beats in both.",
    )


def _table(trials: Mapping[str, Trial], metric: str) -> Markup:
    shown = [trial for trial in trials.values() if trial.role != "winner"]
    paths = searched([trial.params for trial in shown])
    rows = [
        [
            trial.id,
            *(format_value(trial.params[path]) if path in trial.params else None for path in paths),
            trial.seed,
            f"{len(trial.curve)}/{trial.epochs}",
            trial.metric(metric),
            trial.train_s,
            trial.latency_ms,
            trial.state,
        ]
        for trial in shown
    ]
    return table(
        ["Trial", *paths, "Seed", "Epochs", metric, "Training s", "Latency ms", "State"],
        rows,
        caption="Every trial, in the order of the search",
    )
