"""Settings of the places outside of the run's folder that hear of it."""

from __future__ import annotations

from pydantic import Field, model_validator

from rayft.config.section import ImportPath, Section


class MlflowConfig(Section):
    """An MLflow tracking server or store."""

    uri: str | None = Field(
        None, min_length=1, description="Tracking URI: a server (http://) or a database (sqlite:///); empty: no MLflow."
    )
    experiment: str = Field("rayft", min_length=1, max_length=200, description="Experiment that the run belongs to.")

    @model_validator(mode="after")
    def _experiment_needs_a_uri(self) -> MlflowConfig:
        if self.uri is None and "experiment" in self.model_fields_set and self.experiment != "rayft":
            raise ValueError(f"experiment is {self.experiment!r}, yet uri is empty, so that nothing is tracked")
        return self


class TrackConfig(Section):
    """Who hears of the run besides its folder, which always holds metrics.jsonl and TensorBoard events."""

    mlflow: MlflowConfig = Field(MlflowConfig(), description="MLflow: parameters, metrics, package, report.")
    hook: ImportPath | None = Field(
        None, description="Own function, module:function; called with each event (see docs/tracking.md)."
    )
    log: bool = Field(True, description="Write log.jsonl: a line of JSON for each event (docs/observability.md).")
    metrics_port: int | None = Field(
        None,
        ge=1024,
        le=65535,
        description="Port of this machine where an embedded Ray shows metrics to Prometheus; empty: any free one.",
    )
