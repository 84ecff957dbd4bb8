"""What is told of the prefix caches that a run opened."""

from __future__ import annotations

from rayft.observe.sink import Sink


def tell_of_caches(sink: Sink, found: int, computed: int, num_bytes: int, build_s: float) -> None:
    """Tell of caches that are open now.

    Args:
        sink: Takes it.
        found: Caches that were there.
        computed: Caches that were not.
        num_bytes: Of all of them.
        build_s: Seconds spent computing.
    """
    sink.record("rayft_cache_hits_total", found)
    sink.record("rayft_cache_misses_total", computed)
    sink.record("rayft_cache_bytes", num_bytes)
    sink.record("rayft_cache_build_seconds", build_s)
