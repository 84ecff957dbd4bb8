"""From what the data is to a config that suits it, with the reason for each choice."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from rayft.data.survey import Survey

FEW_EXAMPLES = 2_000
MANY_EXAMPLES = 20_000
UNEVEN = 5.0
# Weights also make the rare classes noisier; below this they did not help on the demo data.
IMBALANCE = 10.0
HEAD_STEPS = 1_500
SHOWN = 3


@dataclass(frozen=True)
class Choice:
    """One value of the config that is not the default, or worth a word.

    Attributes:
        field: Path, such as ``train.epochs``.
        value: As YAML holds it.
        reason: Why, in a sentence.
    """

    field: str
    value: Any
    reason: str


def choose(survey: Survey, cpus: int) -> list[Choice]:
    """Choose settings for a dataset.

    Few examples train a head on a frozen backbone, whose activations are computed once; many examples
    also train the last blocks (Kornblith et al. 2019, arXiv:1805.08974: what fine-tuning gains over
    fixed features grows with the number of examples).

    Args:
        survey: What is in the data.
        cpus: CPUs of this machine.
    """
    train = survey.sizes["train"]
    return [
        Choice("name", _name(survey.source), "Also the name of the folder below runs/."),
        Choice("data.source", survey.source, _what(survey)),
        *_data(survey, train),
        Choice(
            "model.backbone", "efficientnet_lite0", "Small, and pretrained on ImageNet; `rayft schema` names others."
        ),
        *_network(train),
        *_training(survey, train),
        Choice("cluster.workers", 1, "More workers compute the same run; worth it once a run takes minutes."),
        Choice("cluster.cpus_per_worker", cpus, f"This machine has {cpus}."),
    ]


def with_given(choices: list[Choice], given: dict[str, Any]) -> list[Choice]:
    """Return the choices with what the user asked for in place of what was chosen.

    Args:
        choices: What suits the data.
        given: Nested mapping of fields that the user set.
    """
    wanted = dict(_leaves(given, ""))
    kept = [choice for choice in choices if choice.field not in wanted or choice.field == "data.source"]
    return kept + [Choice(field, value, "As given.") for field, value in wanted.items() if field != "data.source"]


def render(choices: list[Choice], notes: list[str]) -> str:
    """Return the choices as YAML, the reason of each above it and the notes at the top."""
    tree: dict[str, Any] = {}
    for choice in choices:
        node = tree
        *sections, last = choice.field.split(".")
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = choice
    lines = [f"# {line}" for note in notes for line in _wrapped(note)]
    # Apart from the reason of the first value.
    return "\n".join([*lines, *([""] if lines else []), *_lines(tree, "")]) + "\n"


def notes_on(survey: Survey) -> list[str]:
    """Say what a person should know about the data before training on it."""
    notes = ["Every field that is not here has its default: `rayft schema` lists them all."]
    if survey.bad:
        named = "; ".join(f"{name} {reason}" for name, reason in list(survey.bad.items())[:SHOWN])
        notes.append(f"{len(survey.bad)} pictures cannot be used: {named}{_more(len(survey.bad))}.")
    if survey.duplicates:
        pairs = survey.duplicates
        named = "; ".join(
            f"{pair.first} ({pair.splits[0]}) = {pair.second} ({pair.splits[1]})" for pair in pairs[:SHOWN]
        )
        wrong = sum(not pair.same_label for pair in pairs)
        contrary = f", {wrong} of them under another label" if wrong else ""
        notes.append(
            f"{len(pairs)} pictures occur in two splits{contrary}: {named}{_more(len(pairs))}. "
            "Metrics will look better than they are: remove them from one split."
        )
    if survey.imbalance >= UNEVEN:
        largest, smallest = max(survey.class_counts), min(survey.class_counts)
        names = [survey.labels[survey.class_counts.index(count)] for count in (largest, smallest)]
        notes.append(f"The classes are uneven: {names[0]!r} has {largest} training examples, {names[1]!r} {smallest}.")
    small = [name for name, count in zip(survey.labels, survey.class_counts, strict=True) if count < 10]
    if small:
        notes.append(f"Fewer than 10 training examples: {', '.join(small[:SHOWN])}{_more(len(small))}.")
    return notes


def _data(survey: Survey, train: int) -> list[Choice]:
    choices = []
    if survey.group_column:
        choices.append(
            Choice(
                "data.columns.group",
                survey.group_column,
                f"Rows with one {survey.group_column} show the same thing; they must not be in two splits.",
            )
        )
    if survey.bad:
        choices.append(Choice("data.on_bad", "skip", f"{len(survey.bad)} pictures cannot be decoded."))
    if survey.test_fraction:
        reason = "The data names no test split; these examples are never trained on."
        choices.append(Choice("data.test_fraction", survey.test_fraction, reason))
    batch = 16 if train < 320 else 32 if train < MANY_EXAMPLES else 64
    if batch != 32:
        choices.append(Choice("data.global_batch_size", batch, f"For {train:,} training examples."))
    if train >= FEW_EXAMPLES:
        reason = "Blocks that train can tell a mirrored picture from a new one; remove it where left and right matter."
        choices.append(Choice("data.augment.horizontal_flip", True, reason))
    return choices


def _network(train: int) -> list[Choice]:
    if train < FEW_EXAMPLES:
        reason = f"{train:,} examples train a head well and a backbone badly; its activations are computed once."
        return [
            Choice("freeze.depth", "all", reason),
            Choice("model.dropout", 0.5, f"In so many epochs a head learns {train:,} examples by heart."),
        ]
    return [Choice("freeze.depth", 0.7, f"{train:,} examples can improve the last blocks; the rest stays fixed.")]


def _training(survey: Survey, train: int) -> list[Choice]:
    choices = []
    if train < FEW_EXAMPLES:
        batch = 16 if train < 320 else 32
        epochs = max(10, min(60, round(HEAD_STEPS * batch / train)))
        choices.append(Choice("train.epochs", epochs, f"About {epochs * train // batch:,} cheap steps of the head."))
    else:
        choices.append(Choice("train.epochs", 10, "The best epoch on validation is kept."))
    if survey.imbalance >= IMBALANCE and not survey.multi_label:
        choices += [
            Choice(
                "train.class_weights", "balanced", f"The largest class has {survey.imbalance:.0f} times the smallest."
            ),
            Choice("train.metric", "macro_f1", "Accuracy would hardly notice the small classes."),
        ]
    elif survey.multi_label:
        choices.append(Choice("train.metric", "map", "Mean average precision; accuracy wants every label right."))
    return choices


def _what(survey: Survey) -> str:
    sizes = ", ".join(f"{count:,} {split}" for split, count in survey.sizes.items() if count)
    kind = "several labels each" if survey.multi_label else "one label each"
    return f"{len(survey.labels)} classes, {kind}; {sizes}; shorter sides about {survey.median_side} pixels."


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, node in tree.items():
        if isinstance(node, dict):
            yield from _leaves(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", node


def _name(source: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", PurePosixPath(source.rstrip("/")).stem).strip("-_")
    return stem[:60] or "finetune"


def _more(count: int) -> str:
    return f" and {count - SHOWN} more" if count > SHOWN else ""


def _wrapped(text: str, width: int = 100) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines


def _lines(tree: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, node in tree.items():
        if isinstance(node, dict):
            lines += [f"{indent}{key}:", *_lines(node, indent + "  ")]
        else:
            lines += [f"{indent}# {line}" for line in _wrapped(node.reason)]
            value = yaml.safe_dump(node.value, default_flow_style=True, allow_unicode=True).splitlines()[0]
            lines.append(f"{indent}{key}: {value}")
    return lines
