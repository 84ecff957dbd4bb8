"""The folder of a run: what lies in it, and whether a run may start there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from rayft.config import RunConfig, dump_config, is_auto, parse_config
from rayft.errors import ConfigError, StorageError
from rayft.storage import Storage

# Fields that may change between the start of a run and its resumption: they do not change its numbers.
FREE_FIELDS = (
    ("cluster",),
    ("registry",),
    ("storage",),
    ("track",),
    ("sweep",),
    ("data", "cache_folder"),
    ("data", "cache_bytes"),
    ("train", "keep_checkpoints"),
    ("train", "checkpoint_every_steps"),
    ("train", "log_every_steps"),
    ("train", "profile"),
)

# Fields that a config may leave to the run, as ``auto``.
BATCH_SIZE, RATE = "data.global_batch_size", "optim.learning_rate"


@dataclass(frozen=True)
class RunFolder:
    """``runs/<name>/`` under the storage of a config."""

    storage: Storage

    @classmethod
    def of(cls, config: RunConfig) -> RunFolder:
        """Return the folder of the run that ``config`` describes."""
        return cls(Storage.open(config.storage) / "runs" / config.name)

    @property
    def checkpoints(self) -> Storage:
        """Holds the checkpoints."""
        return self.storage / "checkpoints"

    @property
    def package(self) -> Storage:
        """Holds the model package, once the run has finished."""
        return self.storage / "package"

    @property
    def scratch(self) -> Storage:
        """Holds Ray Train's own state while the run goes on."""
        return self.storage / "ray"

    @property
    def replaced(self) -> Storage:
        """Holds what an earlier run of this name left, until the one that replaces it has ended."""
        return self.storage.parent / f".{self.storage.name}-replaced"

    @property
    def tensorboard(self) -> Storage:
        """Holds what TensorBoard reads."""
        return self.storage / "tensorboard"

    def stall_report(self, rank: int) -> Storage:
        """Where the watchdog of a rank says where it stood."""
        return self.storage / f"stall-rank{rank}.txt"

    def tidy(self) -> None:
        """Remove what only a run in progress needs."""
        self.replaced.delete()
        self.scratch.delete()
        for name in self.storage.list():
            if name.startswith("stall-rank") and not (self.storage / name).read_bytes():
                (self.storage / name).delete()

    def result(self) -> dict[str, Any] | None:
        """Return ``result.json``, or None where there is none."""
        where = self.storage / "result.json"
        return json.loads(where.read_bytes()) if where.exists() else None

    def write_result(self, result: dict[str, Any]) -> None:
        """Replace ``result.json``."""
        (self.storage / "result.json").write_bytes((json.dumps(result, indent=2) + "\n").encode())

    def choices(self) -> dict[str, Any]:
        """Return what the run chose for fields that its config left to it, by their names."""
        where = self.storage / "choices.json"
        return json.loads(where.read_bytes()) if where.exists() else {}

    def choose(self, config: RunConfig, names: tuple[str, ...]) -> None:
        """Write down what was chosen for some fields; a resumed run takes it from here.

        Args:
            config: The run with its fields settled; replaces config.yaml.
            names: The fields that were ``auto``.
        """
        chosen = {name: _flatten(config.model_dump(mode="json"))[tuple(name.split("."))] for name in names}
        (self.storage / "choices.json").write_bytes((json.dumps(self.choices() | chosen, indent=2) + "\n").encode())
        (self.storage / "config.yaml").write_bytes(dump_config(config).encode())

    def record(self) -> dict[str, Any]:
        """Return ``package.json`` of the run's package."""
        return json.loads((self.package / "package.json").read_bytes())

    def metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``."""
        where = self.storage / "metrics.jsonl"
        text = where.read_bytes().decode() if where.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl``."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (self.storage / "metrics.jsonl").write_bytes(text.encode())

    def stored_config(self) -> RunConfig | None:
        """Return the config that last ran here, or None where none did."""
        where = self.storage / "config.yaml"
        return _read_config(where) if where.exists() else None

    def status(self, config: RunConfig) -> Literal["new", "unfinished", "finished"]:
        """Tell what an earlier run of this name left; changes nothing.

        Raises:
            ConfigError: Another config ran under this name.
            StorageError: The folder holds something else than a run.
        """
        where = self.storage / "config.yaml"
        if not where.exists():
            if self.storage.exists() and self.storage.list():
                raise StorageError(
                    f"{self.storage.uri} holds files, yet no run's config.yaml.",
                    "Empty it, or give the run another name.",
                )
            return "new"
        changed = changed_fields(_read_config(where), config)
        if changed:
            raise ConfigError(
                f"The run {config.name!r} in {self.storage.uri} has another config: {'; '.join(changed)}.",
                "Give the run another name, take the change back, or start anew with --fresh.",
            )
        result = self.result()
        return "finished" if result and result["status"] == "finished" else "unfinished"

    def begin(self, config: RunConfig, *, fresh: bool) -> None:
        """Write the config; with ``fresh`` set aside first what an earlier run left, until `tidy` or `withdraw`.

        Raises:
            StorageError: The storage cannot be written.
        """
        where = self.storage / "config.yaml"
        if fresh and where.exists():
            # A driver that was killed before it had trained has set it aside already.
            if self.replaced.exists():
                self.storage.delete()
            else:
                self.storage.move(self.replaced)
        where.write_bytes(dump_config(config).encode())

    def withdraw(self) -> None:
        """Remove a run that did nothing yet, and put back what it would have replaced."""
        self.storage.delete()
        if self.replaced.exists():
            self.replaced.move(self.storage)


def with_choices(config: RunConfig, choices: dict[str, Any]) -> RunConfig:
    """Return the config with its ``auto`` fields settled, as far as there are choices for them."""
    tree = config.model_dump()
    for name, value in choices.items():
        section, field = name.split(".")
        if is_auto(tree[section][field]):
            tree[section][field] = value
    return RunConfig.model_validate(tree)


def changed_fields(old: RunConfig, new: RunConfig) -> list[str]:
    """Describe the fields in which two configs differ, those left out that may change on resumption."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    changed = []
    for path in sorted(before.keys() | after.keys()):
        free = any(path[: len(field)] == field for field in FREE_FIELDS)
        if not free and before.get(path) != after.get(path):
            changed.append(f"{'.'.join(path)} was {before.get(path)!r}, now {after.get(path)!r}")
    return changed


def _flatten(tree: dict[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, (*above, key)))
        else:
            flat[(*above, key)] = value
    return flat


def _read_config(where: Storage) -> RunConfig:
    try:
        return parse_config(yaml.safe_load(where.read_bytes()))
    except (yaml.YAMLError, ConfigError) as error:
        raise StorageError(f"{where.uri} is damaged: {error}", "Start anew with --fresh.") from None
