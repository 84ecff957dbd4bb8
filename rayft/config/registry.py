"""Settings of the registry of models."""

from __future__ import annotations

import warnings

from pydantic import Field

from rayft.config.problems import NAME_PATTERN
from rayft.config.section import Section


class GateConfig(Section):
    """What a version must show before `rayft models promote` lets an alias lead to it."""

    min_metrics: dict[str, float] = Field(
        default_factory=dict, description="Smallest allowed value by metric, such as test_accuracy: 0.8."
    )
    max_metrics: dict[str, float] = Field(
        default_factory=dict, description="Largest allowed value by metric, such as log_loss: 0.7."
    )
    max_latency_ms: float | None = Field(
        None, gt=0, description="Largest median time of one picture, measured where promote runs."
    )
    max_size_mb: float | None = Field(None, gt=0, description="Largest size of the package, in 10^6 bytes.")


with warnings.catch_warnings():
    # pydantic warns of `register`, which the metaclass of every model happens to have.
    warnings.simplefilter("ignore", UserWarning)

    class RegistryConfig(Section):
        """Where models are registered, and what a promotion takes."""

        location: str | None = Field(
            None, min_length=1, description="Local path or pyarrow URI; empty: RAYFT_REGISTRY, else ./registry."
        )
        register: str | None = Field(
            None, pattern=NAME_PATTERN, description="Registers the package under this name when the run has finished."
        )
        gate: GateConfig = Field(GateConfig(), description="Thresholds of a promotion.")
