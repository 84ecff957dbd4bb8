"""MODEL_CARD.md: a package in words, for people.

Source: Mitchell et al. 2019, arXiv:1810.03993, which sections a card has.
"""

from __future__ import annotations

from typing import Any

from rayft.evaluation.measure import wilson

_SHARES = ("accuracy", "top5")


def model_card(record: dict[str, Any]) -> str:
    """Return the card of a package as Markdown.

    Args:
        record: The content of package.json.
    """
    temperature, several = record["calibration"]["temperature"], record["multi_label"]
    preprocessing, lineage = record["preprocessing"], record["lineage"]
    height, width = preprocessing["image_size"]
    examples = record["data"]["examples"]
    counts = ", ".join(f"{count:,} {split}" for split, count in examples.items()) or "not recorded"
    lines = [
        f"# {_plain(record['name'])}",
        "",
        "## Task",
        "",
        f"Classification of pictures into {len(record['labels'])} classes, "
        f"{'any number' if several else 'one'} for each picture.",
        f"Input: a JPEG, PNG, GIF, BMP or WebP file of at most {preprocessing['max_pixels']:,} pixels; it is",
        f"resized to {height} x {width} pixels, {preprocessing['channels']} channels, aspect not kept.",
        "Output: a probability for each class"
        + (", each on its own" if several else "")
        + (f", calibrated with the temperature {temperature:.4g}" if temperature != 1 else "")
        + (", averaged over several views of the picture." if preprocessing["tta"] else "."),
        "",
        f"Classes: {', '.join(_plain(label) for label in record['labels'])}.",
        "",
        "## Metrics",
        "",
        "| metric | value | 95% interval |",
        "|---|---|---|",
        *(_metric_row(name, value, examples) for name, value in sorted(record["metrics"].items())),
        "",
        "Names without `test_` are of the validation split, which also chose the epoch. The interval is Wilson's, for",
        "examples drawn independently; groups of like examples make the true one wider.",
        "",
        "## Data",
        "",
        f"Source: `{_plain(str(lineage['config']['data']['source']))}`. Examples: {counts}.",
        f"Fingerprint: `{lineage['dataset_fingerprint']}`.",
        f"`golden.arrow` holds {record['golden']['examples']} examples of the {record['golden']['split']} split as",
        "they are: who gets the package gets these too.",
        "",
        "## Network",
        "",
        f"Backbone {_plain(record['backbone']['name'])}, weights {_plain(record['backbone']['weights'])}; "
        f"{len(record['blocks_frozen'])} blocks frozen.",
        f"Licence of the initial weights: {_plain(record['licence'])}.",
        "",
        "## Limits",
        "",
        "- It knows no other classes than those above."
        if several
        else "- It answers one of the classes above to every picture, also to one that shows none of them.",
        "- The metrics hold for data like the one above; on other cameras, renderings or regions they may be lower.",
        "- Nobody has examined it for bias against groups of people.",
        "",
        "## Origin",
        "",
        f"Commit: {lineage['git_commit'] or 'not in a checkout'}. "
        + ", ".join(f"{name} {version}" for name, version in lineage["versions"].items())
        + ".",
        "",
    ]
    return "\n".join(lines)


def _metric_row(name: str, value: float, examples: dict[str, int]) -> str:
    tested = name.startswith("test_")
    count = examples.get("test" if tested else "validation", 0)
    if name.removeprefix("test_") not in _SHARES or not count:
        return f"| {name} | {value:.4f} | |"
    low, high = wilson(value * count, count)
    return f"| {name} | {value:.4f} | {low:.4f} to {high:.4f} |"


def _plain(text: str) -> str:
    """Keep text of the user's from being read as Markdown or HTML."""
    kept = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in kept)
