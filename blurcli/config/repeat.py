"""The command that repeats a training: the nearest bundled preset, and the differing keys."""

from __future__ import annotations

import re

from blurcli.base.errors import UsageError
from blurcli.config.experiment import Config
from blurcli.config.loader import load_config, parse_overrides, preset_names
from blurcli.config.serialization import flatten, yaml_text
from blurcli.config.source_names import DATASET_NAMES

_MOST_ASSIGNMENTS = 16  # in one command; more are easier to read in a file


def nearest_preset(config: Config) -> tuple[str, list[str]] | None:
    """The bundled preset that differs least from a configuration.

    Returns:
        Its name, and the arguments of `--set` that turn it into the configuration, except for a path of the training images;
        None if too many keys differ, and a file is clearer.
    """
    wanted, differences = flatten(config), {}
    is_path = config.data.source not in DATASET_NAMES
    if is_path:
        del wanted["data.source"]
    foreign = {}
    for name in preset_names():
        known = flatten(load_config(name))
        differences[name] = [key for key, value in wanted.items() if key not in known or known[key] != value]
        foreign[name] = (known["data.source"] not in DATASET_NAMES) != is_path
    # Among equally near presets, prefer one for the same kind of images, then the shortest name.
    nearest = min(differences, key=lambda name: (len(differences[name]), foreign[name], len(name)))
    assignments = [f"{key}={yaml_text(wanted[key])}" for key in differences[nearest]]
    if len(assignments) > _MOST_ASSIGNMENTS:
        return None
    try:
        repeated = flatten(load_config(nearest, parse_overrides(assignments)))
    except UsageError:
        return None
    repeated["data.source"] = config.data.source
    return (nearest, assignments) if repeated == flatten(config) else None


def without_folder(path: str) -> str:
    """The last component of a path of any operating system; a name is returned unchanged."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1]
