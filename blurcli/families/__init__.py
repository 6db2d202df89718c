"""Families of processes: the only code that distinguishes the kinds of processes.

To add a family, write a module with subclasses of `Family` and `FamilyModel`, enter it in `FAMILIES`, and describe its keys in
`config/processes.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blurcli.families.base import (
    FROM_NOISE,
    Family,
    FamilyModel,
    LikelihoodConfig,
    ModelData,
    Start,
)
from blurcli.families.blurring import BlurringFamily
from blurcli.families.heat import HeatFamily

if TYPE_CHECKING:
    from blurcli.config import Config

__all__ = [
    "FAMILIES",
    "FROM_NOISE",
    "Family",
    "FamilyModel",
    "LikelihoodConfig",
    "ModelData",
    "Start",
    "family_of",
]

FAMILIES: dict[str, type[Family]] = {family.name: family for family in (BlurringFamily, HeatFamily)}


def family_of(config: Config) -> Family:
    """The family of a configuration's process."""
    return FAMILIES[config.process.kind](config)
