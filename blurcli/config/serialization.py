"""A configuration as YAML, JSON and flat keys, and the differences between two configurations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from blurcli.config.experiment import Config
from blurcli.config.section import Section


def _free_keys() -> Iterable[str]:
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for key, own in section.model_fields.items():
                chosen = own.json_schema_extra if isinstance(own.json_schema_extra, dict) else {}
                if chosen.get("free", section.free):
                    yield f"{name}.{key}"


FREE_KEYS = frozenset(_free_keys())
"""A run can continue with other values of these keys: they do not change what is learned."""

# Prefixes of the keys that a distilled model shares with its teacher.
TEACHER_KEYS = ("process.", "model.", "data.image_size", "data.channels", "data.centered", "data.classes", "data.augment")


def flatten(config: Config) -> dict[str, Any]:
    """Every key of a configuration, dotted, with its plain value."""
    return dict(leaves(config.model_dump(mode="json")))


def differing_keys(old: Config, new: Config) -> list[str]:
    """The differing keys that change what is learned, each as `key: old -> new`."""
    ours, theirs = flatten(old), flatten(new)
    return [
        f"{key}: {ours.get(key)} -> {theirs.get(key)}"
        for key in dict.fromkeys([*ours, *theirs])
        if key not in FREE_KEYS and ours.get(key) != theirs.get(key)
    ]


def to_yaml(config: Config) -> str:
    """A resolved preset as YAML, each key with its description as a comment."""
    lines = []
    for name, field in Config.model_fields.items():
        value = getattr(config, name)
        if not isinstance(value, Section):
            lines.append(_yaml_line(name, value, field.description))
            continue
        lines.append(f"{name}:  # {(type(value).__doc__ or '').strip()}")
        plain = value.model_dump(mode="json")
        lines += ["  " + _yaml_line(key, plain[key], f.description) for key, f in type(value).model_fields.items()]
    return "\n".join(lines) + "\n"


def to_json(config: Config) -> str:
    """A configuration as one line of JSON, for the metadata of a weights file."""
    return config.model_dump_json()


def leaves(plain: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """The dotted keys and values of nested mappings."""
    for key, value in plain.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def yaml_text(value: Any) -> str:
    """A plain value as YAML in one line, also as the value of an assignment `key=value`."""
    # Quoted, because PyYAML would leave some texts unquoted that the loader reads as numbers, such as 1e3.
    style = '"' if isinstance(value, str) and value[:1] in "+-.0123456789" else None
    return yaml.safe_dump([value], default_flow_style=True, default_style=style, width=1 << 30).strip()[1:-1]


def _yaml_line(key: str, value: Any, comment: str | None) -> str:
    return f"{key}: {yaml_text(value)}  # {comment}"
