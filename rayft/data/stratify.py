"""A held-out part in which every label of several is as frequent as in the rest."""

from __future__ import annotations

from collections import Counter

import numpy as np

from rayft.data.target import Targets


def draw_stratified(members: dict[str, list[int]], targets: Targets, fraction: float) -> np.ndarray:
    """Mark the examples to hold out, bool [n], by iterative stratification.

    Source: Sechidis, Tsoumakas and Vlahavas 2011, doi:10.1007/978-3-642-23808-6_10. The rarest label is dealt
    with first; each unit that has it goes to the part which lacks more of that label, then to the one which
    lacks more examples, then to the training part. No label leaves the training part altogether.

    Args:
        members: Examples of each unit, which is never torn apart; in the order in which units are dealt out.
        targets: Labels of all examples.
        fraction: Part of the units' examples to hold out.
    """
    counts = {unit: _count(examples, targets) for unit, examples in members.items()}
    left: Counter[int] = sum(counts.values(), Counter())
    wanted = {label: count * fraction for label, count in left.items()}
    having: dict[int, list[str]] = {label: [] for label in left}
    for unit, own in counts.items():
        for label in own:
            having[label].append(unit)
    left_examples = sum(map(len, members.values()))
    wanted_examples = left_examples * fraction
    kept, dealt = Counter(left), set()
    held_out = np.zeros(len(targets), dtype=bool)

    def deal(unit: str, take: bool) -> None:
        nonlocal left_examples, wanted_examples
        dealt.add(unit)
        left_examples -= len(members[unit])
        left.subtract(counts[unit])
        if take:
            held_out[members[unit]] = True
            wanted_examples -= len(members[unit])
            kept.subtract(counts[unit])
            for label, count in counts[unit].items():
                wanted[label] -= count

    while any(count > 0 for count in left.values()):
        rarest = min((label for label, count in left.items() if count > 0), key=lambda label: (left[label], label))
        for unit in having[rarest]:
            if unit in dealt:
                continue
            # What is left and the held-out part does not want, the training part lacks.
            lack = 2 * wanted[rarest] - left[rarest] or 2 * wanted_examples - left_examples
            allowed = all(kept[label] > count for label, count in counts[unit].items())
            deal(unit, take=allowed and lack > 0)
    for unit, examples in members.items():
        if unit not in dealt:
            deal(unit, take=wanted_examples >= len(examples) / 2)
    return held_out


def _count(examples: list[int], targets: Targets) -> Counter[int]:
    assert targets.offsets is not None, "examples have lists of labels"
    return Counter(
        label
        for example in examples
        for label in targets.numbers[targets.offsets[example] : targets.offsets[example + 1]].tolist()
    )
