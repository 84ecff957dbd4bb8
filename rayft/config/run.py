"""The frozen tree of settings that describes one run."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from rayft.config.cluster import ClusterConfig
from rayft.config.data import DataConfig
from rayft.config.model import FreezeConfig, ModelConfig
from rayft.config.prefix import PrefixCacheConfig
from rayft.config.problems import NAME_PATTERN
from rayft.config.registry import RegistryConfig
from rayft.config.section import Section
from rayft.config.track import TrackConfig
from rayft.config.train import BLOCKS_RATE, OptimConfig, TrainConfig


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
    cluster: ClusterConfig = Field(ClusterConfig(), description="Ray resources.")
    track: TrackConfig = Field(TrackConfig(), description="Who hears of the run besides its folder.")
    registry: RegistryConfig = Field(RegistryConfig(), description="Registry of models.")

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
