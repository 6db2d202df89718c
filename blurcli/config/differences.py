"""What distinguishes several configurations, in few words: for legends and labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from blurcli.config.experiment import Config
from blurcli.config.serialization import FREE_KEYS, flatten, yaml_text
from blurcli.core.blur_schedules import BLUR_SCHEDULES

_BLUR = "process.blur"  # the beginning of the keys of the blur; stands for all of them where there is none
_SCHEDULE = "process.blur_schedule"


class Distinction(NamedTuple):
    """What distinguishes configurations.

    Attributes:
        title: the only key that differs; empty if there are several or none.
        labels: a text per configuration: the value of that key, or the differing keys with their values, without those that
            most configurations have.
    """

    title: str
    labels: list[str]


def distinguish(configs: Sequence[Config]) -> Distinction:
    """What distinguishes configurations, by the keys that change what is learned; if these are equal, by the seed, then by all.

    Configurations that are equal in every key have equal labels, which are empty if all of them are equal.
    """
    flat = [_described(config) for config in configs]
    found = Distinction("", [])
    for ignored in ({"seed", *FREE_KEYS}, FREE_KEYS, ()):
        found = _distinguish(flat, ignored)
        if len(set(found.labels)) == len(configs):
            break
    return found


def _distinguish(flat: Sequence[dict[str, Any]], ignored: Collection[str]) -> Distinction:
    keys = [key for key in dict.fromkeys(key for one in flat for key in one) if key not in ignored and _differs(flat, key)]
    named = [key for key in keys if key != _BLUR]
    if len(named) == 1 and named != ["seed"]:
        return Distinction(named[0], [_parts(one, keys, {named[0]: ""}) for one in flat])
    last = [key.rpartition(".")[2] for key in keys]
    short = {key: f"{key if last.count(end) > 1 else end} " for key, end in zip(keys, last, strict=True)}
    labels = [_parts(one, keys, short) for one in flat]
    unusual = [_parts(one, [key for key in keys if not _is_usual(flat, key, one.get(key))], short) for one in flat]
    return Distinction("", unusual if "" not in unusual and len(set(unusual)) == len(set(labels)) else labels)


def _parts(flat: dict[str, Any], keys: Sequence[str], titles: dict[str, str]) -> str:
    """The values of some keys with their titles; a null is mentioned only where nothing else is."""
    shown = {key: flat[key] for key in keys if key in flat}
    values = {key: value for key, value in shown.items() if value is not None} or shown
    return ", ".join(value if key == _BLUR else f"{titles[key]}{_text(value)}" for key, value in values.items())


def _described(config: Config) -> dict[str, Any]:
    """The keys of a configuration, without those that follow from others or have no effect."""
    flat = flatten(config)
    if config.process.blur_sigma_max == 0:
        blur = [key for key in flat if key.startswith(_BLUR)] + ["process.min_scale"]
        return {key: value for key, value in flat.items() if key not in blur} | {_BLUR: "no blur"}
    schedule = BLUR_SCHEDULES.get(flat.get(_SCHEDULE, ""))
    if schedule is not None and schedule.option == "ratio":
        del flat[_SCHEDULE]  # the only one with a ratio
    return flat


def _differs(flat: Sequence[dict[str, Any]], key: str) -> bool:
    """Whether configurations differ in a key. Processes of which one does not have the key differ in another one."""
    values = {repr(one[key]) for one in flat if key in one}
    without_blur = sum(_BLUR in one for one in flat)
    if key.startswith(_BLUR) and key != _SCHEDULE and 0 < without_blur < len(flat):
        return values != {"None"}
    return len(values) > 1


def _is_usual(flat: Sequence[dict[str, Any]], key: str, value: Any) -> bool:
    return len(flat) > 2 and 2 * sum(repr(one.get(key)) == repr(value) for one in flat) > len(flat)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else yaml_text(value)
