"""The settings of a run, a module for each group of sections."""

from rayft.config.cluster import ClusterConfig
from rayft.config.data import AugmentConfig, ColumnsConfig, DataConfig
from rayft.config.files import (
    check_section,
    dump_config,
    json_schema,
    load_config,
    parse_config,
    resolve_config,
    with_overrides,
)
from rayft.config.model import FreezeConfig, ModelConfig
from rayft.config.prefix import PrefixCacheConfig
from rayft.config.registry import GateConfig, RegistryConfig
from rayft.config.run import RunConfig
from rayft.config.track import MlflowConfig, TrackConfig
from rayft.config.train import BLOCKS_RATE, HEAD_RATE, OptimConfig, TrainConfig

__all__ = [
    "BLOCKS_RATE",
    "HEAD_RATE",
    "AugmentConfig",
    "ClusterConfig",
    "ColumnsConfig",
    "DataConfig",
    "FreezeConfig",
    "GateConfig",
    "MlflowConfig",
    "ModelConfig",
    "OptimConfig",
    "PrefixCacheConfig",
    "RegistryConfig",
    "RunConfig",
    "TrackConfig",
    "TrainConfig",
    "check_section",
    "dump_config",
    "json_schema",
    "load_config",
    "parse_config",
    "resolve_config",
    "with_overrides",
]
