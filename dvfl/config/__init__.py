"""The one source of config keys: their types, defaults, limits and descriptions.

`load_config` merges YAML files over config/config.yaml, adds the registry of data sets, and checks everything before
any work starts. An arm, a study's trial and a protocol are all the same thing here: values given to dotted keys.
"""

from dvfl.config.datasets import ArchiveConfig, ChecksumConfig, DatasetDefinition, FetchConfig, MotionsConfig
from dvfl.config.divergences import without_unread
from dvfl.config.loading import (
    DEFAULT_CONFIG,
    PROJECT,
    REGISTRY,
    WEIGHTS,
    check_config,
    digest,
    flatten,
    load_config,
    merge,
    network_train,
    override,
)
from dvfl.config.measuring import AuditConfig, EvaluateConfig, StudyConfig, TrackingConfig
from dvfl.config.schema import Config
from dvfl.config.section import ConfigError, Section
from dvfl.config.training import DistillConfig, FrameStoreConfig, InputConfig, NetworkConfig, TrainConfig
from dvfl.config.tuning import Choices, FloatRange, IntRange, TuneConfig
from dvfl.config.weights import WeightsDefinition

__all__ = [
    "DEFAULT_CONFIG",
    "PROJECT",
    "REGISTRY",
    "WEIGHTS",
    "ArchiveConfig",
    "AuditConfig",
    "ChecksumConfig",
    "Choices",
    "Config",
    "ConfigError",
    "DatasetDefinition",
    "DistillConfig",
    "EvaluateConfig",
    "FetchConfig",
    "FloatRange",
    "FrameStoreConfig",
    "InputConfig",
    "IntRange",
    "MotionsConfig",
    "NetworkConfig",
    "Section",
    "StudyConfig",
    "TrackingConfig",
    "TrainConfig",
    "TuneConfig",
    "WeightsDefinition",
    "check_config",
    "digest",
    "flatten",
    "load_config",
    "merge",
    "network_train",
    "override",
    "without_unread",
]
