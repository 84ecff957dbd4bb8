"""A run in MLflow: parameters, metrics, package and report."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rayft.config import MlflowConfig, RunConfig
from rayft.errors import ConfigError, TrackingError
from rayft.runs import RunFolder

# Limits of MLflow's REST API for one request.
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE, _VALUE_LENGTH = 1000, 100, 6000
_STATUS = {"finished": "FINISHED", "interrupted": "KILLED"}
_FILES = ("report.html", "result.json", "config.yaml", "metrics.jsonl", "predictions.arrow")


class MlflowTracker:
    """Writes one MLflow run for a run of ours; a resumed run goes on in the same one."""

    name = "track.mlflow"

    def __init__(self, config: MlflowConfig) -> None:
        """Connect lazily: the first request tells whether the server is there.

        Raises:
            ConfigError: The package is missing.
        """
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise ConfigError(
                f"track.mlflow.uri is {config.uri!r}, but MLflow cannot be imported: {error}.",
                "Install it with `pip install 'rayft[mlflow]'`, or remove track.mlflow.",
            ) from None
        self._config = config
        with self._explained("open"):
            self._client = MlflowClient(tracking_uri=config.uri)
        self._run_id = ""

    def begin(self, config: RunConfig, folder: RunFolder, known: dict[str, Any]) -> dict[str, Any]:
        """Make the MLflow run, or go on in the one that an earlier start made."""
        with self._explained("start a run in"):
            if "run_id" in known:
                self._run_id = known["run_id"]
                self._client.update_run(self._run_id, status="RUNNING")
            else:
                tags = {"mlflow.source.name": "rayft", "rayft.folder": folder.storage.uri}
                run = self._client.create_run(self._experiment(), run_name=config.name, tags=tags)
                self._run_id = run.info.run_id
                self._log_parameters(config)
        return {"run_id": self._run_id}

    def metrics(self, lines: list[dict[str, Any]]) -> None:
        """Log every figure of the lines, by its name and step."""
        self._log(
            (name, value, line["step"])
            for line in lines
            for name, value in line.items()
            if name not in ("epoch", "step")
        )

    def end(self, status: str, result: dict[str, Any], folder: RunFolder) -> None:
        """Log the final metrics and the files, and close the MLflow run."""
        if status == "finished":
            final = {f"final_{name}": value for name, value in result["final"].items()}
            final["temperature"] = result["calibration"]["temperature"]
            self._log((name, value, result["steps"]) for name, value in final.items())
            with self._explained("copy files to"), _local_files(folder) as local:
                self._client.log_artifacts(self._run_id, str(local))
        with self._explained("end a run in"):
            self._client.set_terminated(self._run_id, _STATUS.get(status, "FAILED"))

    def _experiment(self) -> str:
        name = self._config.experiment
        found = self._client.get_experiment_by_name(name)
        if found is None:
            return self._client.create_experiment(name)
        if found.lifecycle_stage != "active":
            raise TrackingError(
                f"The MLflow experiment {name!r} is deleted.", "Restore it, or set another track.mlflow.experiment."
            )
        return found.experiment_id

    def _log_parameters(self, config: RunConfig) -> None:
        from mlflow.entities import Param

        flat = [Param(key, str(value)[:_VALUE_LENGTH]) for key, value in _flatten(config.model_dump(mode="json"))]
        for start in range(0, len(flat), _PARAMETERS_AT_ONCE):
            self._client.log_batch(self._run_id, params=flat[start : start + _PARAMETERS_AT_ONCE])

    def _log(self, figures: Iterator[tuple[str, Any, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        all_of_them = [
            Metric(name, float(value), now, step) for name, value, step in figures if isinstance(value, (int, float))
        ]
        with self._explained("log metrics to"):
            for start in range(0, len(all_of_them), _METRICS_AT_ONCE):
                self._client.log_batch(self._run_id, metrics=all_of_them[start : start + _METRICS_AT_ONCE])

    @contextlib.contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise TrackingError(
                f"Cannot {action} MLflow at track.mlflow.uri {self._config.uri!r}: {reason}",
                "Check that the server runs and the URI is right, or remove track.mlflow.",
            ) from None


@contextlib.contextmanager
def _local_files(folder: RunFolder) -> Iterator[Path]:
    """Copy what MLflow keeps into a local folder."""
    with tempfile.TemporaryDirectory(prefix="rayft-mlflow-") as scratch:
        local = Path(scratch)
        folder.package.download_folder(local / "package")
        for name in _FILES:
            if (folder.storage / name).exists():
                (local / name).write_bytes((folder.storage / name).read_bytes())
        yield local


def _flatten(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
