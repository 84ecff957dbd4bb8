"""Settings of the cache of activations at the freeze boundary."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from rayft.config.section import Section

# A section may be written as one word: `prefix_cache: on`.
SHORTHAND = {"prefix_cache": "mode"}


class PrefixCacheConfig(Section):
    """Whether the frozen prefix is computed once, instead of in every epoch."""

    mode: Literal["auto", "on", "off"] = Field(
        "auto", description="auto: where a measured probe says that it saves time; on: always; off: never."
    )
    views: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Fixed augmented views of each training picture, epoch e sees view e mod views; "
        "empty: new draws in every epoch, which cannot be cached.",
    )
    dtype: Literal["exact", "bfloat16"] = Field(
        "exact", description="Stored numbers: exact keeps those of the network; bfloat16 halves float32."
    )
    engine: Literal["auto", "openvino", "tensorflow"] = Field(
        "auto",
        description="Library that computes the prefix. auto: openvino on a CPU in float32, where it knows the layers; "
        "else tensorflow.",
    )
    max_bytes: int = Field(
        50_000_000_000, ge=0, description="Size of all caches of the storage; the longest unused goes first."
    )


def expand_shorthand(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a plain tree in which sections written as one word are mappings."""
    words = {section: tree[section] for section in SHORTHAND if isinstance(tree.get(section), str)}
    return {**tree, **{section: {SHORTHAND[section]: word} for section, word in words.items()}}
