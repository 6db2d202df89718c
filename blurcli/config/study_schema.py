"""The keys of a study file, and their checks. Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from blurcli.config.schema import Positive
from blurcli.config.section import Section
from blurcli.core.sampling_options import SAMPLING_OPTIONS, SamplingOption

SAMPLING = {one.name: one for one in SAMPLING_OPTIONS}
"""The sampling options by name."""

_SEED = Annotated[int, Field(ge=0, lt=2**63)]
_MOST_SEEDS = 1000


class StudyScore(Section):
    """One measurement of every model.

    Sampling options (`sampler`, `steps`, ...) stand beside these keys; a variant's own `sample` keys come before them.
    """

    name: str | None = Field(None, min_length=1, description="title of its columns; null for the metric's")
    features: Literal["inception", "pixels", "file"] | None = Field(
        None, description="inception (FID), pixels (FD), or file: that of --features; null for the preset's"
    )
    n: int | None = Field(None, ge=2, description="number of samples; null for the preset's")
    split: Literal["train", "test"] | None = Field(None, description="reference images; null for the preset's")
    mode: Literal["clean", "legacy_tensorflow", "legacy_pytorch"] | None = Field(
        None, description="clean-fid's resizing and network; null for the preset's"
    )
    metrics: tuple[str, ...] | None = Field(
        None, min_length=1, description="metrics to show; null for the one that ranks: fid or fd"
    )
    likelihood: int | None = Field(
        None, ge=2, description="instead of scoring samples, bound the likelihood of this many images: bits_per_dim"
    )
    sampling: dict[str, Any] = Field(default_factory=dict, description="sampling options by name")

    @model_validator(mode="before")
    @classmethod
    def _gather_sampling(cls, plain: Any) -> Any:
        if not isinstance(plain, dict):
            return plain
        if "sampling" in plain:
            raise ValueError(f"sampling: unknown key; its options stand beside these keys: {', '.join(SAMPLING)}")
        return {**{key: value for key, value in plain.items() if key not in SAMPLING}, "sampling": sampling_keys(plain)}

    @model_validator(mode="after")
    def _one_kind(self) -> StudyScore:
        if self.likelihood is not None:
            given = [key for key in ("features", "n", "mode", "metrics") if getattr(self, key) is not None]
            given += [key for key in self.sampling if key not in ("delta", "steps")]
            if given:
                raise ValueError(f"likelihood: takes no samples; leave out {', '.join(given)}")
        return self


class StudyFile(Section):
    """The keys of a study file."""

    preset: str = Field(description="name of a preset, or a YAML file beside this one")
    data: str | None = Field(None, description="images instead of the preset's")
    set: dict[str, Any] = Field(default_factory=dict, description="keys over the preset's, for all variants")
    variants: dict[str, dict[str, Any] | None] = Field(
        min_length=1,
        description="for each name keys over the preset's, `sample` keys that only change the scores, and `preset` "
        "(another one), `weights` (a file instead of a training), `distill` (a variant to distill), "
        "`guide` (a file, or VARIANT@LENGTH)",
    )
    base: str | None = Field(None, description="variant that the others are compared with; null for the first")
    seeds: tuple[_SEED, ...] = Field(min_length=1, description="seeds of training and samples; one number: so many, from 0")
    steps: tuple[Positive, ...] | None = Field(
        None, min_length=1, description="lengths of training at which all are scored; null for the preset's train.steps"
    )
    images: tuple[Positive, ...] | None = Field(
        None, min_length=1, description="instead of steps, lengths in training images: equal for all batch sizes"
    )
    equal_time: bool = Field(False, description="also score each variant after the training time of the base's longest")
    scores: tuple[StudyScore, ...] = Field(
        default_factory=lambda: (StudyScore(),), min_length=1, description="the measurements"
    )

    @field_validator("seeds", "steps", "images", mode="before")
    @classmethod
    def _several(cls, value: Any, info: Any) -> Any:
        least = 0 if info.field_name == "seeds" else 1
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            if info.field_name == "seeds" and value > _MOST_SEEDS:
                raise ValueError(f"a number counts the seeds, at most {_MOST_SEEDS}; for the seed {value} write [{value}]")
            return range(value) if info.field_name == "seeds" else (value,)
        if not isinstance(value, list) or not all(type(one) is int and one >= least for one in value):
            raise ValueError(f"must be whole numbers from {least}, such as [{least}, 2]")
        return value

    @field_validator("seeds", "steps", "images")
    @classmethod
    def _different(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        twice = sorted({one for one in value or () if (value or ()).count(one) > 1})
        if twice:
            raise ValueError(f"{twice[0]} is given twice; leave one out")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> StudyFile:
        if self.steps is not None and self.images is not None:
            raise ValueError("steps and images: both are the lengths of training; use one of them")
        return self


def sampling_keys(plain: dict[str, Any]) -> dict[str, Any]:
    """The sampling options among some keys, checked.

    Raises:
        ValueError: a value is of another kind, or out of range.
    """
    found = {key: SAMPLING[key] for key in plain if key in SAMPLING and plain[key] is not None}
    return {key: _sampling_value(one, plain[key]) for key, one in found.items()}


def _sampling_value(one: SamplingOption, value: Any) -> Any:
    if one.choices and value not in one.choices:
        raise ValueError(f"{one.name}: {value!r} must be one of {', '.join(one.choices)}")
    if one.kind is str and isinstance(value, str):
        return value
    is_number = isinstance(value, int if one.kind is int else int | float) and not isinstance(value, bool)
    low, high = -float("inf") if one.low is None else one.low, float("inf") if one.high is None else one.high
    if one.kind is str or not is_number or not low <= value <= high:
        kind = {int: "a whole number", float: "a number", str: "a text"}[one.kind]
        limits = "" if one.low is None else f" from {one.low:g}" + (f" to {one.high:g}" if one.high is not None else "")
        raise ValueError(f"{one.name}: {value!r} must be {kind}{limits}")
    return one.kind(value)
