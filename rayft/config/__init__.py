"""The settings of a run, a module for each group of sections."""

from rayft.config.augment import AugmentConfig, AugMixConfig, LayerConfig, RandomResizedCropConfig
from rayft.config.cluster import ClusterConfig
from rayft.config.data import ColumnsConfig, DataConfig
from rayft.config.evaluate import EvaluateConfig, TtaConfig
from rayft.config.files import (
    check_section,
    dump_config,
    json_schema,
    load_config,
    parse_config,
    resolve_config,
    with_overrides,
)
from rayft.config.model import AdapterConfig, FreezeConfig, ModelConfig, PhaseConfig, is_head_only
from rayft.config.prefix import PrefixCacheConfig
from rayft.config.registry import GateConfig, RegistryConfig
from rayft.config.run import RunConfig
from rayft.config.section import is_auto
from rayft.config.serve import AutoscaleConfig, BatchingConfig, LimitsConfig, ServeConfig, TlsConfig
from rayft.config.sweep import Condition, Dimension, SweepConfig
from rayft.config.track import MlflowConfig, TrackConfig
from rayft.config.train import BLOCKS_RATE, HEAD_RATE, DistillConfig, OptimConfig, TrainConfig

__all__ = [
    "BLOCKS_RATE",
    "HEAD_RATE",
    "AdapterConfig",
    "AugMixConfig",
    "AugmentConfig",
    "AutoscaleConfig",
    "BatchingConfig",
    "ClusterConfig",
    "ColumnsConfig",
    "Condition",
    "DataConfig",
    "Dimension",
    "DistillConfig",
    "EvaluateConfig",
    "FreezeConfig",
    "GateConfig",
    "LayerConfig",
    "LimitsConfig",
    "MlflowConfig",
    "ModelConfig",
    "OptimConfig",
    "PhaseConfig",
    "PrefixCacheConfig",
    "RandomResizedCropConfig",
    "RegistryConfig",
    "RunConfig",
    "ServeConfig",
    "SweepConfig",
    "TlsConfig",
    "TrackConfig",
    "TrainConfig",
    "TtaConfig",
    "check_section",
    "dump_config",
    "is_auto",
    "is_head_only",
    "json_schema",
    "load_config",
    "parse_config",
    "resolve_config",
    "with_overrides",
]
