"""How many replicas an endpoint needs, by the pictures that are in the house."""

from __future__ import annotations

from typing import Any

PICTURES = "rayft_pictures"


class ScaleByPictures:
    """Ray Serve's policy: Serve sees no request, so each replica tells it how many pictures it holds.

    Bounds and delays are those of Serve's autoscaling config, which wraps every policy.

    Args:
        target: Pictures a replica that the number of replicas aims at.
    """

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: Any) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas that is wanted, and no state."""
        held = context.aggregated_metrics.get(PICTURES, {})
        if not held:
            # Replicas that have just started have said nothing yet.
            return context.target_num_replicas, {}
        return sum(held.values()) / self._target, {}
