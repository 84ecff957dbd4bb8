"""The frozen tree of settings that describes one run."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from rayft.config.augment import AugmentConfig
from rayft.config.cluster import ClusterConfig
from rayft.config.data import DataConfig
from rayft.config.evaluate import EvaluateConfig
from rayft.config.model import AdapterConfig, FreezeConfig, ModelConfig, is_head_only, last_depth
from rayft.config.prefix import PrefixCacheConfig
from rayft.config.problems import NAME_PATTERN
from rayft.config.registry import RegistryConfig
from rayft.config.section import Section, is_auto
from rayft.config.sweep import SweepConfig
from rayft.config.track import TrackConfig
from rayft.config.train import ADAPTER_RATE, BLOCKS_RATE, OptimConfig, TrainConfig


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
    prefix_cache: PrefixCacheConfig = Field(
        PrefixCacheConfig(), description="Cache of the frozen prefix; one word, such as auto, is its mode."
    )
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Evaluation and serving.")
    cluster: ClusterConfig = Field(ClusterConfig(), description="Ray resources.")
    track: TrackConfig = Field(TrackConfig(), description="Who hears of the run besides its folder.")
    sweep: SweepConfig = Field(SweepConfig(), description="Search over other fields; only `rayft sweep` reads it.")
    registry: RegistryConfig = Field(RegistryConfig(), description="Registry of models.")

    @model_validator(mode="before")
    @classmethod
    def _default_rate(cls, tree: Any) -> Any:
        """Fill in what suits the freeze depth and the adapters, so that the resolved config shows it."""
        if not isinstance(tree, dict):
            return tree
        optim, freeze, model = (tree.get(name) or {} for name in ("optim", "freeze", "model"))
        if not all(isinstance(section, dict) for section in (optim, freeze, model)):
            return tree
        adapted = model.get("adapter") is not None
        if adapted and "depth" not in freeze and last_depth(freeze) is None:
            # Adapters lie in blocks that are not frozen.
            freeze = {**freeze, "depth": 0}
            tree = {**tree, "freeze": freeze}
        if "learning_rate" not in optim and freeze.get("depth", last_depth(freeze) or "all") != "all":
            tree = {**tree, "optim": {**optim, "learning_rate": ADAPTER_RATE if adapted else BLOCKS_RATE}}
        return tree

    @model_validator(mode="after")
    def _views_can_be_drawn(self) -> RunConfig:
        views, augment = self.evaluate.tta.views, self.data.augment
        if views and augment.for_views() == AugmentConfig():
            raise ValueError(f"evaluate.tta.views is {views}, but data.augment has nothing to draw them with")
        own = [layer.name for layer in augment.layers if ":" in layer.name]
        if views and own:
            raise ValueError(f"evaluate.tta.views is {views}, but a package cannot hold {own[0]}, which they need")
        return self

    @model_validator(mode="after")
    def _across_fields(self) -> RunConfig:
        if not is_auto(self.data.global_batch_size) and self.cluster.workers > self.data.global_batch_size:
            raise ValueError(
                f"cluster.workers is {self.cluster.workers}, data.global_batch_size is {self.data.global_batch_size}; "
                "every worker needs at least one example of a batch"
            )
        if self.data.sampling == "balanced" and self.train.class_weights == "balanced":
            raise ValueError(
                "data.sampling is balanced and train.class_weights is balanced; together they would correct twice: "
                "set one of them to uniform or none"
            )
        if self.track.metrics_port is not None and self.cluster.address is not None:
            raise ValueError(
                f"track.metrics_port is {self.track.metrics_port} and cluster.address is {self.cluster.address}; the "
                "nodes of a cluster have ports of their own (ray start --metrics-export-port), leave one of them out"
            )
        if self.model.backbone == "none" and self.model.pooling != "flatten":
            raise ValueError(f"model.pooling is {self.model.pooling}; without a backbone only flatten is allowed")
        settled = not is_auto(self.data.global_batch_size)
        if settled and self.cluster.workers * self.train.accumulate_steps > self.data.global_batch_size:
            raise ValueError(
                f"train.accumulate_steps is {self.train.accumulate_steps}, cluster.workers is {self.cluster.workers}, "
                f"data.global_batch_size is {self.data.global_batch_size}; every worker needs at least one example of "
                "each part of a batch"
            )
        if not settled and self.train.accumulate_steps > 1:
            raise ValueError(
                f"data.global_batch_size is auto, train.accumulate_steps is {self.train.accumulate_steps}; "
                "accumulation is for batches that do not fit, give the batch size or set accumulate_steps to 1"
            )
        self._blocks_train_where_they_are_treated_apart()
        phased = self.freeze.schedule or self.freeze.head_first_epochs or self.freeze.gradual
        if self.prefix_cache.mode == "on" and (phased or self.train.distill):
            raise ValueError(
                f"prefix_cache.mode is on with {'phases in freeze' if phased else 'train.distill'}; there is no cache "
                "for several freeze depths, and a teacher needs the pictures; use auto or off"
            )
        if self.model.adapter is not None:
            self._check_adapter(self.model.adapter)
        last = self.freeze.schedule[-1].epoch if self.freeze.schedule else self.freeze.head_first_epochs
        if last >= self.train.epochs and last:
            raise ValueError(
                f"the last phase of freeze begins after epoch {last}, train.epochs is {self.train.epochs}; "
                "it needs at least one epoch"
            )
        return self

    def _blocks_train_where_they_are_treated_apart(self) -> None:
        trains = self.freeze.depth != "all" and self.model.backbone != "none"
        for name, value, neutral in (
            ("optim.layer_decay", self.optim.layer_decay, 1),
            ("optim.head_multiplier", self.optim.head_multiplier, 1),
            ("train.l2_sp.alpha", self.train.l2_sp.alpha, 0),
        ):
            if value != neutral and not trains:
                raise ValueError(
                    f"{name} is {value}, yet no block of a backbone trains (freeze.depth is {self.freeze.depth}, "
                    f"model.backbone is {self.model.backbone}); set it to {neutral}, or lower freeze.depth"
                )
        if self.train.l2_sp.alpha and self.model.weights == "none":
            raise ValueError(
                f"train.l2_sp.alpha is {self.train.l2_sp.alpha}, yet model.weights is none; there are no pretrained "
                "weights to stay near to"
            )
        if (self.train.l2_sp.alpha or self.train.l2_sp.beta) and self.optim.weight_decay:
            raise ValueError(
                f"train.l2_sp is on and optim.weight_decay is {self.optim.weight_decay}, which pulls the same weights "
                "to zero; set one of them to 0 (l2_sp.beta is the decay of the new weights)"
            )

    def _check_adapter(self, adapter: AdapterConfig) -> None:
        if is_head_only(self.freeze.depth):
            raise ValueError(
                f"freeze.depth is {self.freeze.depth} with model.adapter; adapters need blocks that are not frozen, "
                "leave out freeze.depth or make it smaller"
            )
        if "trainable" in (self.freeze.batch_norm, *(phase.batch_norm for phase in self.freeze.schedule)):
            raise ValueError(
                "freeze.batch_norm is trainable with model.adapter; adapters leave the statistics of the backbone "
                "as they are, use auto or frozen"
            )
        if self.train.l2_sp.alpha and adapter.kind == "lora":
            raise ValueError(
                f"train.l2_sp.alpha is {self.train.l2_sp.alpha} with model.adapter.kind lora; no pretrained weight "
                "trains that could be held, set it to 0"
            )
        if self.model.backbone == "none":
            raise ValueError("model.adapter is given, model.backbone is none; there is nothing to adapt")
