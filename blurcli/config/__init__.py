"""Presets: their keys, and how they are read, validated and written. Imports no torch."""

from blurcli.config.differences import Distinction, distinguish
from blurcli.config.experiment import Config
from blurcli.config.loader import (
    derive_config,
    from_json,
    load_config,
    load_run_config,
    parse_overrides,
    preset_names,
    preset_summary,
)
from blurcli.config.processes import DiffusionConfig, HeatConfig
from blurcli.config.schema import DataConfig, DistillConfig, OptimConfig, SampleConfig, ScoreConfig, TrainConfig
from blurcli.config.serialization import FREE_KEYS, TEACHER_KEYS, differing_keys, flatten, leaves, to_json, to_yaml, yaml_text
from blurcli.config.source_names import DATASET_NAMES, expand_home, resolve_source

__all__ = [
    "DATASET_NAMES",
    "FREE_KEYS",
    "TEACHER_KEYS",
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "DistillConfig",
    "Distinction",
    "HeatConfig",
    "OptimConfig",
    "SampleConfig",
    "ScoreConfig",
    "TrainConfig",
    "derive_config",
    "differing_keys",
    "distinguish",
    "expand_home",
    "flatten",
    "from_json",
    "leaves",
    "load_config",
    "load_run_config",
    "parse_overrides",
    "preset_names",
    "preset_summary",
    "resolve_source",
    "to_json",
    "to_yaml",
    "yaml_text",
]
