"""The configuration: one file per section, `ExperimentConfig` for the whole, `load_config` to read it."""

from foodseg.config.experiment import ExperimentConfig
from foodseg.config.load import Resolved, load_config, parse_config

__all__ = ["ExperimentConfig", "Resolved", "load_config", "parse_config"]
