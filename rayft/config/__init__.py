"""The settings of a run, a module for each group of sections."""

from rayft.config.cluster import ClusterConfig
from rayft.config.data import AugmentConfig, ColumnsConfig, DataConfig
from rayft.config.files import dump_config, json_schema, load_config, parse_config
from rayft.config.model import FreezeConfig, ModelConfig
from rayft.config.prefix import PrefixCacheConfig
from rayft.config.run import RunConfig
from rayft.config.train import BLOCKS_RATE, HEAD_RATE, OptimConfig, TrainConfig

__all__ = [
    "BLOCKS_RATE",
    "HEAD_RATE",
    "AugmentConfig",
    "ClusterConfig",
    "ColumnsConfig",
    "DataConfig",
    "FreezeConfig",
    "ModelConfig",
    "OptimConfig",
    "PrefixCacheConfig",
    "RunConfig",
    "TrainConfig",
    "dump_config",
    "json_schema",
    "load_config",
    "parse_config",
]
