"""The table of metrics as a part of a page."""

from __future__ import annotations

from rayft.observe.names import CACHE, SERVING, SWEEP, TRAINING, Metric, scraped_name

_GROUPS = {"Training": TRAINING, "Prefix cache": CACHE, "Sweeps": SWEEP, "The endpoint": SERVING}


def metrics_table() -> str:
    """Return a table of Markdown for each group of metrics."""
    return "\n".join(part for title, group in _GROUPS.items() for part in _part(title, group))


def _part(title: str, group: dict[str, Metric]) -> list[str]:
    rows = [
        f"| `{scraped_name(name)}` | {metric.kind} | {metric.unit} | {', '.join(metric.labels) or 'none'} | "
        f"{metric.help} |"
        for name, metric in group.items()
    ]
    return [f"### {title}", "", "| scraped as | kind | unit | labels | meaning |", "|---|---|---|---|---|", *rows, ""]
