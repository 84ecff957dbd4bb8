"""Settings of an endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from rayft.config.files import check_section, read_tree, with_overrides
from rayft.config.section import Name, Section

Port = Annotated[int, Field(ge=0, le=65535)]
MAX_BATCH_SIZE = 1024


class BatchingConfig(Section):
    """How pictures of many requests share passes of the networks."""

    max_batch_size: int = Field(
        32, ge=1, le=MAX_BATCH_SIZE, description="Most pictures in one pass; sizes are the powers of two up to it."
    )
    max_wait_ms: float = Field(
        2.0, ge=0, le=1000, description="Longest wait of a busy replica for pictures that are being decoded."
    )
    max_queue: int = Field(
        256, ge=1, le=100_000, description="Most pictures that wait for a pass in one replica; past it, 429."
    )
    passes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Passes of a network at once, among which the replica's CPUs are divided. Empty: one for each CPU, "
        "up to 4; on a GPU one.",
    )


class AutoscaleConfig(Section):
    """How many replicas there are, by the pictures that wait."""

    min_replicas: int = Field(1, ge=1, le=1024, description="Fewest replicas.")
    max_replicas: int = Field(1, ge=1, le=1024, description="Most replicas.")
    target_pictures: float = Field(
        32.0, gt=0, le=100_000, description="Pictures in the house, a replica, that the number of replicas aims at."
    )
    upscale_delay_s: float = Field(5.0, ge=0, le=3600, description="How long more load must last.")
    downscale_delay_s: float = Field(120.0, ge=0, le=86400, description="How long less load must last.")

    @model_validator(mode="after")
    def _range_rises(self) -> AutoscaleConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas is {self.min_replicas}, max_replicas is {self.max_replicas}; the first must not exceed "
                "the second"
            )
        return self


class LimitsConfig(Section):
    """What a request may ask for."""

    deadline_s: float = Field(30.0, gt=0, le=3600, description="Longest time of a request; past it, 408.")
    max_body_mb: float = Field(16.0, gt=0, le=1024, description="Largest body, in 10^6 bytes; past it, 413.")
    max_pictures: int = Field(128, ge=1, le=100_000, description="Most pictures in one request; past it, 413.")
    slow_client_s: float = Field(
        20.0, gt=0, le=3600, description="Longest pause of a client within a request; past it, the connection closes."
    )
    max_connections: int = Field(1000, ge=1, le=100_000, description="Most open connections of one replica.")
    drain_s: float = Field(
        20.0, ge=0, le=3600, description="Longest wait, at a stop, for the answers that are under way."
    )


class TlsConfig(Section):
    """Files of a TLS certificate, PEM."""

    cert: str = Field(min_length=1, description="Certificate with its chain.")
    key: str = Field(min_length=1, description="Private key, without a passphrase.")
    client_ca: str | None = Field(
        None, min_length=1, description="Certificates that sign clients'; without one a client is refused. Empty: any."
    )


class ServeConfig(Section):
    """All that an endpoint depends on."""

    models: tuple[Name, ...] = Field(
        (), description="Each a name, name@version or name@alias in the registry, or the folder of a package or run."
    )
    registry: str | None = Field(
        None, min_length=1, description="Local path or pyarrow URI; empty: RAYFT_REGISTRY, else ./registry."
    )
    poll_s: float = Field(2.0, ge=0.1, le=3600, description="Time between two looks at the registry's aliases.")
    host: str = Field("127.0.0.1", min_length=1, description="Address that is bound; 0.0.0.0 is every one.")
    port: Port = Field(8000, description="Port of HTTP; 0 takes a free one.")
    grpc_port: Port | None = Field(None, description="Port of gRPC, 0 takes a free one; empty: no gRPC.")
    replicas: int = Field(1, ge=1, le=1024, description="Processes that answer, each with every model.")
    autoscale: AutoscaleConfig | None = Field(None, description="Replicas by load instead of a fixed number.")
    cpus_per_replica: float | None = Field(
        None,
        gt=0,
        le=1024,
        description="CPUs of a replica, for its passes and decoding. Empty: this machine's, shared by the replicas; "
        "1 on a cluster.",
    )
    gpus_per_replica: float = Field(0.0, ge=0, le=1, description="GPUs of a replica; a share lets several use one.")
    batching: BatchingConfig = Field(BatchingConfig(), description="Batches and the queue.")
    limits: LimitsConfig = Field(LimitsConfig(), description="Bounds of requests.")
    keys: str | None = Field(None, min_length=1, description="File of API keys; empty is allowed on loopback only.")
    tls: TlsConfig | None = Field(None, description="TLS; empty: none.")
    access_log: str | None = Field(
        None, min_length=1, description="File that gets a line of JSON for each request; empty: none."
    )
    address: str | None = Field(None, description="Ray address; empty starts an embedded Ray on this machine.")

    @property
    def max_replicas(self) -> int:
        """Most replicas that there can be."""
        return self.replicas if self.autoscale is None else self.autoscale.max_replicas

    @model_validator(mode="after")
    def _ports_differ(self) -> ServeConfig:
        if self.port and self.port == self.grpc_port:
            raise ValueError(f"grpc_port is {self.grpc_port}, as port is; each protocol needs a port of its own")
        for field in ("port", "grpc_port") if self.address is not None else ():
            # Each replica would take another one, and nobody would know which.
            if getattr(self, field) == 0:
                raise ValueError(f"{field} is 0 with an address; on a cluster the replicas need one port that is known")
        if self.autoscale is not None and self.replicas != 1:
            raise ValueError(
                f"replicas is {self.replicas} with autoscale; leave it out, autoscale.min_replicas is the start"
            )
        if self.limits.max_pictures > self.batching.max_queue:
            raise ValueError(
                f"limits.max_pictures is {self.limits.max_pictures}, batching.max_queue is {self.batching.max_queue}; "
                "a request larger than the queue could never be answered"
            )
        return self


def load_serve_config(path: Path | None, given: Mapping[str, Any], overrides: Sequence[str] = ()) -> ServeConfig:
    """Read the settings of an endpoint.

    Args:
        path: A YAML file; None for the defaults.
        given: Fields that go over the file's, such as flags of the command line.
        overrides: ``a.b=value``, over both.

    Raises:
        ConfigError: The file is unreadable, or a value is not allowed.
    """
    tree = {} if path is None else read_tree(path)
    return check_section(ServeConfig, with_overrides({**tree, **given}, overrides))
