"""From a preset's name or file to a configuration: YAML with `extends`, dotted overrides, and errors that name their origin."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from blurcli.base.errors import UsageError, did_you_mean, option
from blurcli.base.runs import Run, other_version, similar_run
from blurcli.config.experiment import Config
from blurcli.config.processes import PROCESS_KINDS, HeatConfig
from blurcli.config.serialization import flatten
from blurcli.config.source_names import expand_home, resolve_source

_MAX_ERRORS = 20  # reported at once
_MAX_YAML_BYTES = 1 << 16  # ten times a preset with every key
_ALL_KEYS = (*Config.model_fields, *flatten(Config()), *(f"process.{key}" for key in HeatConfig.model_fields))


def from_json(text: str, origin: str) -> Config:
    """A configuration from the JSON of `to_json`; UsageError that names `origin` if it is damaged."""
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{origin}: its configuration is not JSON ({error}); the file is damaged") from None
    _keep_former_defaults(plain)
    return _validate(plain, lambda key, message: origin)


def _keep_former_defaults(plain: Any) -> None:
    """Fill in keys that an older stored configuration lacks with the behavior of its time."""
    match plain:
        case {"process": {"kind": "diffusion"}, "sample": dict() as sample}:
            sample.setdefault("final", "noisy")


def load_config(preset: str, overrides: Sequence[tuple[str, str, Any]] = ()) -> Config:
    """Resolve a preset.

    Args:
        preset: a name, or the path of a YAML file.
        overrides: (origin for messages, dotted key, value), applied in order.

    Raises:
        UsageError: no such preset, or anything wrong in it; the text names file, key, value and what is allowed.
    """
    file = find_preset(preset)
    try:
        return _resolve(((str(path), layer) for path, layer in _layers(file)), overrides, preset)
    except UsageError as error:
        run = Run(file.parent)
        if file.name != run.config_path.name or not error.text.startswith(str(file)):
            raise
        raise UsageError(error.text + other_version(run.version)) from None


def derive_config(config: Config, origin: str, overrides: Sequence[tuple[str, str, Any]]) -> Config:
    """A configuration with some keys changed.

    Args:
        config: the original configuration.
        origin: its origin, for messages.
        overrides: as for `load_config`.

    Raises:
        UsageError: anything wrong in the overrides; the text names key, value and what is allowed.
    """
    return _resolve([(origin, config.model_dump(mode="json"))], overrides, origin)


def _resolve(layers: Iterable[tuple[str, dict[str, Any]]], overrides: Sequence[tuple[str, str, Any]], otherwise: str) -> Config:
    """A configuration from mappings and overrides, each with its origin; errors without another origin name `otherwise`."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source, layer in layers:
        _drop_superseded(merged, layer.get("process"))
        _merge(merged, layer, source, origins)
    _drop_superseded(merged, {key.removeprefix("process."): value for _, key, value in overrides if key.startswith("process.")})
    for origin, key, value in overrides:
        nested: dict[str, Any] = {key.split(".")[-1]: value}
        for part in reversed(key.split(".")[:-1]):
            nested = {part: nested}
        _merge(merged, nested, origin, origins)

    def origin_of(key: str, message: str) -> str:
        # Contradictions between keys are reported for their section. The likely cause is the key that was set last, among those
        # that the message names, or else among all.
        inside = [known for known in origins if not key or known.startswith(key + ".")]
        named = [known for known in inside if re.search(rf"\b{re.escape(known.removeprefix(f'{key}.'))}\b", message)]
        return origins.get(key) or next((origins[known] for known in (*reversed(named), *reversed(inside))), otherwise)

    return _validate(merged, origin_of)


def _drop_superseded(merged: dict[str, Any], process: Any) -> None:
    """Drop inherited keys of another process, or another blur schedule, than a layer chooses in `process`."""
    match merged, process:
        case {"process": dict() as inherited}, dict():
            pass
        case _:
            return
    superseded: set[str] = set()
    old, new = (PROCESS_KINDS.get(str(kind)) for kind in (inherited.get("kind", "diffusion"), process.get("kind")))
    if old is not None and new is not None:
        superseded = {*old.model_fields} - {*new.model_fields}
    if process.get("blur_schedule", inherited.get("blur_schedule")) != inherited.get("blur_schedule"):
        superseded |= {"blur_power", "blur_noise_ratio"}
    for key in superseded:
        inherited.pop(key, None)


def load_run_config(path: Path) -> Config:
    """The configuration of a run, from its config.yaml.

    Raises:
        UsageError: there is no such file, or it is damaged.
    """
    if not path.is_file():
        close = "" if path.parent.exists() else similar_run(path.parent)
        raise UsageError(f"{path.parent}: not a run folder (it has no {path.name}){close}")
    return load_config(str(path.resolve()))


def parse_overrides(assignments: Iterable[str]) -> list[tuple[str, str, Any]]:
    """Assignments `a.b=value`, as given to `--set`, as overrides; the value is read as YAML."""
    overrides = []
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not all(key.strip().split(".")):
            raise UsageError(f"{option('set')} {assignment}: use key=value, for example {option('set')} train.steps=1000")
        try:
            value = yaml.load(text, _Loader)
        except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError):
            raise UsageError(f"{option('set')} {assignment}: {text!r} is not a YAML value") from None
        if key.strip() == "data.source" and isinstance(value, str):
            value = resolve_source(value)
        overrides.append((f"{option('set')} {assignment}", key.strip(), value))
    return overrides


def preset_folder() -> Path:
    """The folder of the bundled presets: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).parent.parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"


def preset_names() -> list[str]:
    """The bundled presets."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def preset_summary(name: str) -> str:
    """The comment on a bundled preset's first line."""
    return find_preset(name).read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()


def find_preset(name: str, beside: Path | None = None) -> Path:
    """The file of a preset, by name or path; a path in `extends` is relative to the file that names it."""
    if name.endswith((".yaml", ".yml")) or "/" in name or "\\" in name:
        path = (beside or Path()) / expand_home(name)
        if not path.is_file():
            raise UsageError(f"preset {path}: no such file")
        return path
    if name not in preset_names():
        raise UsageError(f"preset {name!r} is unknown{did_you_mean(name, preset_names())} (known: {', '.join(preset_names())})")
    return preset_folder() / f"{name}.yaml"


def _layers(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The file and all files it extends, the furthest ancestor first."""
    layers: list[tuple[Path, dict[str, Any]]] = []
    while True:
        if any(path.samefile(seen) for seen, _ in layers):
            raise UsageError(f"{path}: extends: the presets extend each other in a circle")
        layer = read_yaml(path)
        match layer:
            case {"data": {"source": str(source)}}:
                layer["data"]["source"] = resolve_source(source, path.parent)
        parent = layer.pop("extends", None)
        layers.append((path, layer))
        if parent is None:
            return layers[::-1]
        if not isinstance(parent, str):
            raise UsageError(f"{path}: extends: got {parent!r}; it must be the name or path of one preset")
        path = find_preset(parent, beside=path.parent)


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of YAML 1.2, and without aliases and duplicate keys.

    PyYAML follows YAML 1.1, where 010 is 8, 1:30 is 90, 1e3 is a text and 2024-01-01 a date. In YAML 1.2 these are 10, a text,
    a number and a text. Aliases can expand to gigabytes. For duplicate keys PyYAML silently uses the last.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed: write the value", problem_mark=mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep=True)
        if len(mapping) < len(node.value):
            keys = [str(key.value) for key, _ in node.value]
            twice = next((key for key in keys if keys.count(key) > 1), keys[0])
            raise yaml.MarkedYAMLError(problem=f"key {twice!r} appears twice", problem_mark=node.start_mark)
        return mapping


def _number_resolvers() -> None:
    kept = {"tag:yaml.org,2002:bool", "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
    _Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in kept]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    number = r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
    special = r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    for tag, pattern in (("int", r"[-+]?[0-9][0-9_]*"), ("float", f"{number}|{special}")):
        _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list("-+.0123456789"))
    _Loader.add_constructor("tag:yaml.org,2002:int", _decimal)


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(str(loader.construct_scalar(node)).replace("_", ""))


_number_resolvers()


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, with dotted keys in their sections; UsageError that names what is wrong."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_YAML_BYTES + 1)
        if len(raw) > _MAX_YAML_BYTES:
            raise UsageError(f"{path}: longer than {_MAX_YAML_BYTES >> 10} KiB: too long for a preset or a study")
        content = yaml.load(raw.decode("utf-8"), _Loader)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file in UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}: not valid YAML{line}: {error.problem}") from None
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # values that do not match their tag
        raise UsageError(f"{path}: not valid YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError(f"{path}: must be a mapping of keys to values")
    return _nested(content, path)


def _nested(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """The mapping of a file with dotted keys, `train.steps: 5`, in their sections."""
    nested: dict[str, Any] = {key: value for key, value in content.items() if "." not in key}
    for dotted, value in content.items():
        *sections, key = dotted.split(".")
        if not sections:
            continue
        inside = nested
        for section in sections:
            inside = inside.setdefault(section, {})
            if not isinstance(inside, dict):
                raise UsageError(f"{path}: {dotted}: {section} is not a mapping of keys to values")
        if key in inside:
            raise UsageError(f"{path}: not valid YAML: key {dotted!r} appears twice")
        inside[key] = value
    return nested


def _merge(target: dict[str, Any], layer: Mapping[str, Any], origin: str, origins: dict[str, str], prefix: str = "") -> None:
    for key, value in layer.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and isinstance(target.get(key, {}), dict):
            _merge(target.setdefault(key, {}), value, origin, origins, f"{dotted}.")
        else:
            target[key] = value
            origins.pop(dotted, None)  # keep `origins` in the order of the assignments
            origins[dotted] = origin


def _validate(plain: Any, origin_of: Any) -> Config:
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        details = error.errors()
    lines = list(dict.fromkeys(_describe(one, origin_of) for one in details[:_MAX_ERRORS]))
    if len(details) > _MAX_ERRORS:
        lines.append(f"and {len(details) - _MAX_ERRORS} more")
    raise UsageError("\n".join(lines))


def _describe(details: ErrorDetails, origin_of: Any) -> str:
    # Locations descend to list items and members of a union; messages name keys.
    location = [str(part) for part in details["loc"] if part not in PROCESS_KINDS][:2]
    key = ".".join(location)
    message = details["msg"].removeprefix("Value error, ")
    where = f"{origin_of(key, message)}: " + (f"{key}: " if key else "")
    if details["type"] == "extra_forbidden":
        if key in _ALL_KEYS:
            return f"{where}this key is for another process.kind; leave it out"
        same_leaf = [known for known in _ALL_KEYS if known.rpartition(".")[2] == location[-1]]
        hint = f"; did you mean {same_leaf[0]!r}?" if same_leaf else did_you_mean(key, _ALL_KEYS)
        return f"{where}unknown key{hint}"
    if details["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return f"{where}got {details['input']!r}; it must be a mapping of keys to values"
    if details["type"] == "value_error" and isinstance(details["input"], dict):
        return where + message
    return f"{where}got {details['input']!r}; {message[0].lower()}{message[1:]}"
