"""A study: one YAML file with a preset, variants of it, seeds, lengths of training, and scores. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from blurcli.base.errors import UsageError, did_you_mean
from blurcli.config.experiment import Config
from blurcli.config.loader import derive_config, load_config, read_yaml
from blurcli.config.schema import SampleConfig
from blurcli.config.serialization import flatten, leaves
from blurcli.config.source_names import expand_home, resolve_source
from blurcli.config.study_schema import SAMPLING, StudyFile, StudyScore, sampling_keys

_MAX_ERRORS = 20


_LONGEST = 100  # bytes of the name of a folder
_OF_FILES = (".md", ".tex", ".csv", ".png", ".svg", ".yaml", ".jsonl")


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes:
        name: its name.
        config: the resolved preset, with the study's images; for a distilled model, that of its teacher.
        assigned: its own keys over the preset's, by dotted key.
        sampling: its own sampling options.
        weights: a weights file, or its reference on the hub, instead of a training; None for a training.
        distilled: the name of the variant that is distilled; None for other trainings.
        guide: a weights file, or a variant and its length of training; None for no guide.
    """

    name: str
    config: Config
    assigned: dict[str, Any]
    sampling: dict[str, Any]
    weights: str | None = None
    distilled: str | None = None
    guide: str | tuple[str, int] | None = None


@dataclass(frozen=True)
class Study:
    """A study, resolved.

    Attributes:
        path: its file.
        base: name of the variant that others are compared with.
        variants: the rows, in order.
        seeds: of training and samples.
        config: the preset with the keys of all variants: its images and `score` are those of all scores.
        lengths: of training at which models are scored, in order: steps, or images.
        by_images: whether lengths are in images.
        equal_time: whether to score at the training time of the base, too.
        scores: the measurements.
    """

    path: Path
    base: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    config: Config
    lengths: tuple[int, ...]
    by_images: bool
    equal_time: bool
    scores: tuple[StudyScore, ...]

    def steps_of(self, variant: Variant, length: int) -> int:
        """The training steps of a variant at a length."""
        return max(1, length // variant.config.train.batch_size) if self.by_images else length

    def variant(self, name: str) -> Variant:
        """The variant with a name."""
        return next(one for one in self.variants if one.name == name)


def load_study(path: Path, data: str | None = None) -> Study:
    """Read and resolve a study file.

    Args:
        path: the file.
        data: images instead of the file's; None for those.

    Raises:
        UsageError: anything is wrong in it; the text names the file, the key and what is allowed.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file; a study is a YAML file with preset, variants and seeds")
    try:
        plain = read_yaml(path)
        names = plain.get("variants")
        for name in names if isinstance(names, dict) else ():
            if not isinstance(name, str):
                raise UsageError(f"{path}: variants: the name {name} is not a text: put it in quotes")
        file = StudyFile.model_validate(plain)
        # Relative to the working directory, unlike a name in the file.
        file = file if data is None else file.model_copy(update={"data": str(resolve_source(data))})
    except ValidationError as error:
        # An invalid item also makes its list too short.
        found = [one for one in error.errors() if one["type"] != "too_short" or one["input"] in ([], {}, ())] or error.errors()
        raise UsageError("\n".join(dict.fromkeys(_explained(path, one) for one in found[:_MAX_ERRORS]))) from None
    if file.base is not None and file.base not in file.variants:
        hint = did_you_mean(file.base, list(file.variants))
        raise UsageError(f"{path}: base: {file.base!r} is no variant{hint} (known: {', '.join(file.variants)})")
    config = _config(path, file, "set", {})
    variants = tuple(_variant(path, file, name, keys or {}, config) for name, keys in file.variants.items())
    _check_different(path, variants)
    lengths = tuple(sorted(file.images or file.steps or (config.train.steps,)))
    by_images, base = file.images is not None, file.base or variants[0].name
    study = Study(path, base, variants, file.seeds, config, lengths, by_images, file.equal_time, file.scores)
    _check_references(study)
    return study


def training_keys(config: Config) -> dict[str, Any]:
    """The keys of a configuration that a training depends on, besides its length, with their values."""
    free = ("sample.", "score.", "train.steps")
    return {key: value for key, value in flatten(config).items() if not key.startswith(free)}


def _config(path: Path, file: StudyFile, place: str, keys: dict[str, Any], preset: str | None = None) -> Config:
    """The preset, the study's or another, with the keys of all variants and others, found at `place` of the file."""
    preset = preset or file.preset
    if preset.endswith((".yaml", ".yml")):
        preset = str(path.parent / expand_home(preset))
    source = [] if file.data is None else [(f"{path}: data", "data.source", resolve_source(file.data, path.parent))]
    instead = {"seed": "seeds", "train.steps": "steps", "data.source": "data", "train.keep": "steps"}
    own = []
    for where, plain in (("set", file.set), (place, keys)):
        for key, value in leaves(plain):
            if other := instead.get(key, "scores" if key.startswith("score.") and where != "set" else None):
                raise UsageError(f"{path}: {where}: {key}: is the same for all variants; use the study's key {other}")
            own.append((f"{path}: {where}", key, value))
    return load_config(preset, [*source, *own])


def _variant(path: Path, file: StudyFile, name: str, keys: dict[str, Any], plain: Config) -> Variant:
    place, keys = f"variants: {name}", dict(keys)
    if not name.strip() or len(name) > 80 or "@" in name:
        raise UsageError(f"{path}: {place}: a name has 1 to 80 characters and no @")
    special: dict[str, Any] = {key: keys.pop(key, None) for key in ("preset", "weights", "distill", "guide")}
    for key, value in special.items():
        if value is not None and not (isinstance(value, str) and value):
            raise UsageError(f"{path}: {place}: {key}: got {value!r}; it must be a text")
    assigned = dict(leaves(keys))
    try:
        known = {key.removeprefix("sample."): assigned.pop(key) for key in list(assigned) if key.startswith("sample.")}
        if unknown := next((key for key in known if key not in SAMPLING), None):
            raise UsageError(f"{path}: {place}: sample.{unknown}: unknown key{did_you_mean(unknown, list(SAMPLING))}")
        sampling = sampling_keys(known)
    except ValueError as error:
        raise UsageError(f"{path}: {place}: sample: {error}") from None
    guide = _guide(path, special["guide"])
    if special["preset"] is not None and (special["weights"] or special["distill"]) is not None:
        raise UsageError(f"{path}: {place}: preset: is of a training; leave it out, or weights and distill")
    if special["weights"] is not None:
        if assigned or special["distill"] is not None:
            other = next(iter(assigned), "distill")
            raise UsageError(f"{path}: {place}: {other}: is of a training, and weights are trained already; leave one out")
        return Variant(
            name, plain, {}, sampling, weights=_weights(path, special["weights"]), guide=_guide(path, special["guide"])
        )
    if special["distill"] is not None:
        return Variant(name, plain, assigned, sampling, distilled=special["distill"], guide=guide)
    # Keys of the sampler are checked with the process; guidance by a guide needs no classes.
    checked = {f"sample.{key}": value for key, value in sampling.items() if key in SampleConfig.model_fields}
    if guide is not None:
        checked.pop("sample.guidance", None)
    config = _config(path, file, place, {**assigned, **checked}, special["preset"])
    before, after = flatten(plain), flatten(config)
    if without := [key for key in assigned if key in after and before.get(key) == after[key]]:
        key = without[0]
        if len(without) == len(assigned) and not sampling and guide is None and special["preset"] is None:
            hint = "leave the variant out, or write {} for the preset as it is"
            raise UsageError(f"{path}: {place}: changes nothing: {key} is {after[key]} without it, too; {hint}")
    return Variant(name, config, assigned, sampling, guide=guide)


def _weights(path: Path, name: str) -> str:
    """A weights file beside the study, or a name that is none of a file."""
    beside = path.parent / expand_home(name)
    return str(beside) if beside.exists() else name


def _guide(path: Path, name: str | None) -> str | tuple[str, int] | None:
    if name is None or "@" not in name or name.startswith("hf://"):
        return name if name is None else _weights(path, name)
    variant, _, steps = name.rpartition("@")
    if not steps.isdecimal():
        raise UsageError(f"{path}: guide: {name!r}: after @ comes a length of training, a whole number")
    return variant, int(steps)


def _check_different(path: Path, variants: tuple[Variant, ...]) -> None:
    """Refuse two variants that are the same."""

    def identity(one: Variant) -> tuple[Any, ...]:
        own = one.assigned if one.distilled else training_keys(one.config)
        return own, one.sampling, one.weights, one.distilled, one.guide

    for one, other in combinations(variants, 2):
        if identity(one) == identity(other):
            raise UsageError(
                f"{path}: variants: {one.name!r} and {other.name!r} are the same; leave one out, or give it other keys"
            )
        if slug(one.name) == slug(other.name):
            raise UsageError(f"{path}: variants: {one.name!r} and {other.name!r} are too alike for the names of folders")


def _check_references(study: Study) -> None:
    """Check the variants that others name, and the guides' lengths."""
    trained = [one.name for one in study.variants if one.weights is None and one.distilled is None]
    for one in study.variants:
        where = f"{study.path}: variants: {one.name}"
        if one.distilled is not None and one.distilled not in trained:
            hint = did_you_mean(one.distilled, trained)
            raise UsageError(f"{where}: distill: {one.distilled!r} is no trained variant{hint} (known: {', '.join(trained)})")
        if isinstance(one.guide, tuple):
            name, steps = one.guide
            if name not in trained:
                raise UsageError(f"{where}: guide: {name!r} is no trained variant{did_you_mean(name, trained)}")
            if steps not in study.lengths:
                known = ", ".join(map(str, study.lengths))
                raise UsageError(
                    f"{where}: guide: {steps} is none of the study's lengths ({known}); add it there, or use another"
                )
    for one in study.variants:
        for key in ("source", "image_size", "channels"):
            own, other = getattr(one.config.data, key), getattr(study.config.data, key)
            if own != other:
                where = f"{study.path}: variants: {one.name}: data.{key} is {own}"
                raise UsageError(f"{where}, and that of the study's preset {other}: scores could not be compared")
        if one.distilled is not None:
            _check_distillation(study, one)
    if study.base not in trained and study.equal_time:
        raise UsageError(f"{study.path}: equal_time: the base {study.base!r} is no training; compare with one")


def _check_distillation(study: Study, variant: Variant) -> None:
    """Check the keys of a distillation before its teacher is trained."""
    origin = f"{study.path}: variants: {variant.name}"
    own = {"objective": "consistency", "sample.sampler": "consistency", "sample.eta": 0.0, "sample.guidance": 1.0}
    overrides = [*(("distillation", *pair) for pair in own.items()), *((origin, *pair) for pair in variant.assigned.items())]
    derive_config(study.variant(str(variant.distilled)).config, origin, overrides)


def slug(name: str) -> str:
    """A variant's name as that of a folder, and never that of a file of the study."""
    kept = "".join(character if character.isalnum() or character in "._-" else "-" for character in name.strip())
    kept = kept.strip(".").lower() or "variant"
    if len(kept.encode()) > _LONGEST:
        kept = f"{kept.encode()[: _LONGEST - 9].decode(errors='ignore')}-{hashlib.sha256(kept.encode()).hexdigest()[:8]}"
    return f"{kept}-variant" if kept == "logs" or Path(kept).suffix in _OF_FILES else kept


def _explained(path: Path, details: ErrorDetails) -> str:
    location = [str(part) for part in details["loc"]]
    where = f"{path}: {'.'.join(location)}: " if location else f"{path}: "
    message = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        known = [*StudyScore.model_fields, *SAMPLING] if location[0] == "scores" else [*StudyFile.model_fields]
        return f"{where}unknown key{did_you_mean(location[-1], [key for key in known if key != 'sampling'])}"
    if details["type"] == "missing":
        return f"{where}is missing; a study has at least preset, variants and seeds"
    if details["type"] == "value_error" and isinstance(details["input"], dict):
        return where + message
    message = message.replace("valid tuple", "list").replace("valid dictionary", "mapping of keys to values")
    return f"{where}got {details['input']!r}; {message[0].lower()}{message[1:]}"
