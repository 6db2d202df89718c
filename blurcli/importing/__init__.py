"""Import models of other implementations: inverse heat dissipation (Rissanen et al. 2023, arXiv 2206.13397, by AaltoML) and
blurring diffusion (the unofficial implementation by Kanad).

Both work on images in [0, 1], count time by their steps, and normalize by 32 groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blurcli.base.errors import UsageError, option
from blurcli.config import Config, flatten, load_config, preset_names
from blurcli.core.moments import DataMoments
from blurcli.core.objectives import OBJECTIVES
from blurcli.data.images import Pixels
from blurcli.families import ModelData, family_of
from blurcli.importing.adm import deduce_keys, rename_parameters
from blurcli.importing.pth import Checkpoint, read_checkpoint
from blurcli.model.weights import Weights

__all__ = ["Checkpoint", "as_weights", "deduce_keys", "equal_content", "fitting_preset", "read_checkpoint", "resolve"]

Override = tuple[str, str, Any]
"""Origin for messages, dotted key, value."""

_PUBLISHED = [name for name, objective in OBJECTIVES.items() if objective.published]


def fitting_preset(checkpoint: Checkpoint) -> str:
    """The only bundled preset of a published process with a network that fits the shapes of a checkpoint.

    Raises:
        UsageError: there is none, or more than one.
    """
    facts = deduce_keys(checkpoint)
    fitting = _fitting_presets(facts)
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise UsageError(
            f"{checkpoint.path}: no preset has its network ({_listed(facts)}): name one with the process of its training with "
            f"{option('preset')}, and its network with {_assignments(facts)}"
        )
    raise UsageError(
        f"{checkpoint.path}: its network fits several presets, and a checkpoint does not name its process: choose with "
        f"{option('preset')} {' or '.join(fitting)}"
    )


def resolve(checkpoint: Checkpoint, preset: str, overrides: Sequence[Override] = ()) -> Config:
    """The configuration of a checkpoint: a preset, the conventions of the implementations, and then the overrides.

    Raises:
        UsageError: the preset is invalid, or contradicts the checkpoint.
    """
    config, facts = load_config(preset, overrides), deduce_keys(checkpoint)
    if config.objective not in _PUBLISHED:
        fitting = _fitting_presets(facts)
        raise UsageError(
            f"preset {preset}: its network predicts another quantity (objective: {config.objective}) than those of published "
            f"implementations ({' or '.join(_PUBLISHED)})" + (f": use {' or '.join(fitting)}" if fitting else "")
        )
    conventions = {
        "data.centered": False,
        "model.norm_groups": 32,
        "model.time_scale": family_of(config).published_times,
        # A division by alpha magnifies the rounding errors of the predicted noise.
        "train.precision": "fp32",
    }
    origin = f"{checkpoint.path}: what its implementation does"
    config = load_config(preset, [*((origin, key, value) for key, value in conventions.items()), *overrides])
    different = {key: value for key, value in facts.items() if flatten(config)[key] != value}
    if different:
        others = ", ".join(f"{key} {flatten(config)[key]}" for key in different)
        fitting = _fitting_presets(facts)
        raise UsageError(
            f"{checkpoint.path}: its network has {_listed(different)}, and preset {preset} {others}: "
            + (f"use {option('preset')} {' or '.join(fitting)}, or " if fitting else "")
            + f"set what differs with {_assignments(different)}"
        )
    return config


def as_weights(
    checkpoint: Checkpoint, config: Config, images: Pixels | None, path: Path, legacy_attention: bool = False
) -> Weights:
    """The content of a weights file.

    Args:
        checkpoint: the trained network.
        config: from `resolve`.
        images: the training images (N, C, H, W) uint8, to measure moments; None for a model without moments.
        path: the path of the new weights file.
        legacy_attention: see `rename_parameters`.

    Raises:
        UsageError: the network is unsupported, or cannot be sampled without the training images.
    """
    network, family = rename_parameters(checkpoint, config, legacy_attention), family_of(config)
    if images is not None:
        moments = family.measure_moments(images)
        data = ModelData(moments, None, family.measure_extras(images, moments))
    elif family.starts_from_images:
        raise UsageError(
            f"{checkpoint.path}: sampling starts from blurred training images, which a checkpoint does not hold: name these "
            f"images with {option('data')}"
        )
    else:
        data = ModelData(DataMoments.unknown((config.data.channels, *config.data.image_size), config.data.centered))
    return Weights(config, checkpoint.step, network, data, path)


def equal_content(one: Weights, other: Weights) -> bool:
    """Whether two weights files have the same content."""
    return (one.config, one.step) == (other.config, other.step) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in ((one.network, other.network), (_data_tensors(one.data), _data_tensors(other.data)))
    )


def _data_tensors(data: ModelData) -> dict[str, Tensor]:
    own = {"second_moment": data.moments.second_moment, "mean": data.moments.mean}
    own |= {"measured": torch.tensor(data.moments.measured)} | data.extras
    return own if data.gain is None else own | {"gain": data.gain}


def _fitting_presets(facts: Mapping[str, Any]) -> list[str]:
    found = []
    for name in preset_names():
        config = load_config(name)
        keys = flatten(config)
        if config.objective in _PUBLISHED and all(keys[key] == value for key, value in facts.items()):
            found.append(name)
    return found


def _listed(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in facts.items())


def _assignments(facts: Mapping[str, Any]) -> str:
    return " ".join(f"{option('set')} '{key}={value}'" for key, value in facts.items())
