"""The frozen tree of settings that describes one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rayft.config_problems import IMPORT_PATTERN, NAME_PATTERN, describe_problem, show_value
from rayft.errors import ConfigError
from rayft.yaml_text import read_yaml, write_yaml

# A rate that suits a new head would undo what pretrained blocks know.
HEAD_RATE = 3e-3
BLOCKS_RATE = 3e-4

# Larger files are no configs; reading one whole could exhaust memory.
_MAX_CONFIG_BYTES = 1_000_000

ImportPath = Annotated[str, StringConstraints(pattern=IMPORT_PATTERN)]

Name = Annotated[str, StringConstraints(min_length=1)]
Side = Annotated[int, Field(ge=8, le=4096)]
Width = Annotated[int, Field(ge=1, le=65536)]


class Section(BaseModel):
    """Base of every section: immutable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _bools_are_no_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError(f"{str(value).lower()} is not allowed here")
        if isinstance(value, list) and any(isinstance(item, bool) for item in value):
            raise ValueError("true and false are not allowed in this list")
        return value


class ColumnsConfig(Section):
    """Names of the columns of a table; empty means the usual name."""

    image: str | None = Field(None, description="Encoded pictures (bytes). Usual name: image.")
    path: str | None = Field(None, description="Paths of pictures, relative to the table. Usual name: path.")
    label: str | None = Field(None, description="Class, an integer or a string. Usual name: label.")
    label_name: str | None = Field(None, description="Name of an integer class. Usual name: label_name.")
    split: str | None = Field(None, description="train, validation or test. Usual name: split.")
    group: str | None = Field(None, description="Examples of one group never fall into two splits. Usual name: group.")


class AugmentConfig(Section):
    """Random changes of training pictures; each draw depends on seed, epoch and example alone."""

    horizontal_flip: bool = Field(False, description="Mirror left and right, one time in two.")
    vertical_flip: bool = Field(False, description="Mirror top and bottom, one time in two.")
    crop: float = Field(0.0, ge=0, lt=1, description="Largest part of each side that a crop may cut away.")
    rotate: float = Field(0.0, ge=0, le=180, description="Largest rotation, degrees, both ways.")
    brightness: float = Field(0.0, ge=0, le=1, description="Largest shift, as a part of the full range.")
    contrast: float = Field(0.0, ge=0, lt=1, description="Largest relative change of contrast.")
    saturation: float = Field(0.0, ge=0, lt=1, description="Largest relative change of saturation.")
    hue: float = Field(0.0, ge=0, le=0.5, description="Largest rotation of hue, in turns.")


class DataConfig(Section):
    """Which labelled examples there are, and how they reach the network."""

    source: str = Field(min_length=1, description="Folder with a folder per class, or Parquet/Arrow file; path or URI.")
    columns: ColumnsConfig = Field(ColumnsConfig(), description="Column names, where they are not the usual ones.")
    global_batch_size: int = Field(32, ge=1, le=65536, description="Examples per step, over all workers.")
    image_size: Side | tuple[Side, Side] | None = Field(
        None, description="Side in pixels, or [height, width]; empty means the backbone's own."
    )
    channels: Literal[1, 3] = Field(3, description="Colour channels that the network sees.")
    validation_fraction: float = Field(
        0.15, ge=0, lt=1, description="Part of train held out when the data names no validation split."
    )
    test_fraction: float = Field(0.0, ge=0, lt=1, description="Part held out when the data names no test split.")
    split_seed: int = Field(0, ge=0, description="Seed of the held-out parts; apart from the run's own seed.")
    augment: AugmentConfig = Field(AugmentConfig(), description="Augmentation of training pictures.")
    on_bad: Literal["fail", "skip"] = Field("fail", description="What to do about pictures that cannot be decoded.")
    max_pixels: int = Field(
        50_000_000, ge=1, le=2_000_000_000, description="Pictures with more pixels than this are bad."
    )

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> DataConfig:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}, test_fraction is {self.test_fraction}; "
                "their sum must be below 1, to leave something to train on"
            )
        return self


class ModelConfig(Section):
    """The pretrained backbone and the task layers on top of it."""

    backbone: str = Field(
        "efficientnet_lite0",
        min_length=1,
        description="efficientnet_lite0, a keras.applications name, a path to a .keras file, or none.",
    )
    weights: str = Field("imagenet", min_length=1, description="imagenet, none, or a path to a weights file.")
    pooling: Literal["avg", "max", "flatten"] = Field("avg", description="How feature maps become a vector.")
    hidden: tuple[Width, ...] = Field((), description="Widths of the dense layers between pooling and logits.")
    activation: str = Field("relu", description="Keras activation of the hidden layers.")
    dropout: float = Field(0.2, ge=0, lt=1, description="Dropout in front of the logits.")


class FreezeConfig(Section):
    """How much of the pretrained backbone stays fixed."""

    depth: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] | Name = Field(
        "all", description="Blocks frozen from the input side: a number, a fraction, a block's name, or all."
    )
    batch_norm: Literal["auto", "frozen", "trainable"] = Field(
        "auto",
        description="BatchNorm in unfrozen blocks; auto: frozen when pretrained, trainable from random weights.",
    )


class OptimConfig(Section):
    """How gradients become updates."""

    name: str = Field("adam", min_length=1, description="A Keras optimizer's name, or module:function.")
    learning_rate: float = Field(
        HEAD_RATE,
        gt=0,
        le=1000,
        description="Peak learning rate; not given: 0.003 where the head trains alone, 0.0003 where blocks train too.",
    )
    schedule: Literal["constant", "cosine"] = Field("cosine", description="Course of the rate after warm-up.")
    warmup_fraction: float = Field(0.05, ge=0, lt=1, description="Part of all steps with a linearly rising rate.")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="Decoupled decay; spares biases and normalisation.")
    clip_norm: float | None = Field(
        None, gt=0, description="Largest global norm of the gradient, clipped after the sum over workers."
    )
    options: dict[str, float | bool | str] = Field(
        default_factory=dict, description="More arguments of the optimizer, such as beta_1 or momentum."
    )


class TrainConfig(Section):
    """How long to train, with what loss, and what is kept."""

    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training split.")
    loss: Literal["cross_entropy", "focal"] | ImportPath = Field(
        "cross_entropy", description="cross_entropy, focal, or module:function (see examples/digits)."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Probability moved from the label to all classes.")
    step: ImportPath | None = Field(None, description="Own training step, module:function; empty means the built-in.")
    metric: Literal["accuracy", "top5", "macro_f1", "log_loss", "ece"] = Field(
        "accuracy", description="Validation metric that decides which epoch is best."
    )
    precision: Literal["float32", "bfloat16", "float16", "float64"] = Field(
        "float32", description="Number format of activations; float64 is for proofs of parity."
    )
    checkpoint_every_steps: int | None = Field(
        None, ge=1, description="Checkpoint in mid-epoch as well, every so many steps."
    )
    keep_checkpoints: int = Field(2, ge=1, le=1000, description="Latest checkpoints kept; the best is kept besides.")
    log_every_steps: int = Field(10, ge=1, description="Steps per line of metrics.jsonl.")


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


class RunConfig(Section):
    """All that a run depends on."""

    name: str = Field("finetune", pattern=NAME_PATTERN, description="Name of the run and of its folder.")
    storage: str = Field(".", min_length=1, description="Holds runs/<name>/: a local path or a pyarrow filesystem URI.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of initial weights, order, augmentation and dropout.")
    data: DataConfig
    model: ModelConfig = Field(ModelConfig(), description="Backbone and head.")
    freeze: FreezeConfig = Field(FreezeConfig(), description="Freeze depth.")
    optim: OptimConfig = Field(OptimConfig(), description="Optimizer.")
    train: TrainConfig = Field(TrainConfig(), description="Training loop.")
    cluster: ClusterConfig = Field(ClusterConfig(), description="Ray resources.")

    @model_validator(mode="before")
    @classmethod
    def _default_rate(cls, tree: Any) -> Any:
        """Fill in the rate that suits the freeze depth, so that the resolved config shows it."""
        if not isinstance(tree, dict):
            return tree
        optim, freeze = tree.get("optim") or {}, tree.get("freeze") or {}
        sections = isinstance(optim, dict) and isinstance(freeze, dict)
        if sections and "learning_rate" not in optim and freeze.get("depth", "all") != "all":
            return {**tree, "optim": {**optim, "learning_rate": BLOCKS_RATE}}
        return tree

    @model_validator(mode="after")
    def _across_fields(self) -> RunConfig:
        if self.cluster.workers > self.data.global_batch_size:
            raise ValueError(
                f"cluster.workers is {self.cluster.workers}, data.global_batch_size is {self.data.global_batch_size}; "
                "every worker needs at least one example of a batch"
            )
        if self.model.backbone == "none" and self.model.pooling != "flatten":
            raise ValueError(f"model.pooling is {self.model.pooling}; without a backbone only flatten is allowed")
        return self


def load_config(path: str | Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML file, apply ``a.b=value`` overrides, and check the result.

    A relative ``data.source`` or weights path stays relative to the working directory.

    Raises:
        ConfigError: The file is unreadable, is not YAML, or a value is not allowed.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(_MAX_CONFIG_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"Cannot read the config {str(path)!r}: {reason}.", "Give the path of a YAML file.") from None
    if len(text) > _MAX_CONFIG_BYTES:
        raise ConfigError(
            f"{path} has over {_MAX_CONFIG_BYTES:,} characters; that is no config.", "Give the path of a YAML file."
        )
    raw = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} holds {show_value(raw)}, not a mapping of sections.", "Start with `data:` and its `source:`."
        )
    for override in overrides:
        _apply_override(raw, override)
    return parse_config(raw)


def parse_config(raw: dict[str, Any]) -> RunConfig:
    """Check a plain mapping against the tree.

    Raises:
        ConfigError: Names every wrong field, its value and what is allowed.
    """
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        # A field of several types gives an error per type; one line is enough.
        lines = dict.fromkeys(describe_problem(problem, raw, RunConfig) for problem in error.errors(include_url=False))
        raise ConfigError(
            "\n".join(lines), "Correct it in the file or with --set; `rayft schema` lists every field."
        ) from None


def dump_config(config: RunConfig) -> str:
    """Return the whole resolved config as YAML that loads to the same config."""
    return write_yaml(config.model_dump(mode="json"))


def json_schema() -> str:
    """Return the JSON Schema of a config file, for editors."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunConfig.model_json_schema()}
    return json.dumps(schema, indent=2)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set got {override!r}; it takes section.field=value.", "Example: --set train.epochs=3")
    value = read_yaml(text, f"--set {key}: {text!r}")
    node = raw
    for part in parts[:-1]:
        # An empty section of a YAML file reads as None.
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict):
            raise ConfigError(
                f"--set {key}: {part!r} holds {show_value(node)}, so it has no fields.", "Name a field of a section."
            )
    node[parts[-1]] = value
