"""Settings of the Ray resources of a run."""

from __future__ import annotations

from pydantic import Field

from rayft.config.section import Section


class ClusterConfig(Section):
    """Where the run runs, and with how much."""

    address: str | None = Field(None, description="Ray address; empty starts an embedded Ray on this machine.")
    workers: int = Field(1, ge=1, le=4096, description="Training workers, one model copy each.")
    cpus_per_worker: float = Field(1.0, gt=0, le=1024, description="CPUs of a worker; TensorFlow uses as many threads.")
    gpus_per_worker: float = Field(0.0, ge=0, le=1, description="GPUs of a worker; one model copy uses at most one.")
    max_failures: int = Field(3, ge=0, le=1000, description="Worker failures survived before the run fails.")
    stall_timeout_s: float = Field(
        300.0, ge=1, le=86400, description="A worker without progress for so long is ended and replaced."
    )
