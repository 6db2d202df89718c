"""What a preset may say, and how it is read, checked and written. Imports no torch."""

from blurcli.config.presets import from_json, load_config, parse_overrides, preset_names, preset_summary
from blurcli.config.sections import Config, DataConfig, DiffusionConfig, HeatConfig, OptimConfig, SampleConfig, ScoreConfig
from blurcli.config.text import FREE_KEYS, differing_keys, flatten, to_json, to_yaml

__all__ = [
    "FREE_KEYS",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "HeatConfig",
    "OptimConfig",
    "SampleConfig",
    "ScoreConfig",
    "differing_keys",
    "flatten",
    "from_json",
    "load_config",
    "parse_overrides",
    "preset_names",
    "preset_summary",
    "to_json",
    "to_yaml",
]
