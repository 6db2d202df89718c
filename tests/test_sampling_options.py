"""An option of sampling is declared once: the command line, Python, presets, records and titles have what the request has."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from blurcli.cli.animate import animate
from blurcli.cli.fid import fid
from blurcli.cli.likelihood import likelihood
from blurcli.cli.sample import sample
from blurcli.config import SampleConfig
from blurcli.core.samplers import SAMPLERS, takers_of
from blurcli.core.sampling_options import METHOD_OPTIONS, SAMPLING_OPTIONS, SamplingConfig, SamplingKeywords, SamplingRequest
from blurcli.evaluate.records import SAMPLING, sampling_title

NAMES = [one.name for one in SAMPLING_OPTIONS]


def test_the_options() -> None:
    """The list grows on purpose only."""
    assert NAMES == ["sampler", "steps", "eta", "delta", "label", "guidance", "final"]
    assert [one.flag for one in SAMPLING_OPTIONS] == ["sampler", "steps", "eta", "delta", "class", "guidance", "final"]


def test_keywords_of_python_are_those_of_the_request() -> None:
    assert list(SamplingKeywords.__annotations__) == NAMES


@pytest.mark.parametrize("one", METHOD_OPTIONS, ids=lambda one: one.name)
def test_options_of_samplers_are_keys_of_presets_with_the_same_range(one: object) -> None:
    field = SampleConfig.model_fields[one.name]  # type: ignore[attr-defined]
    limits = {name: getattr(rule, name) for rule in field.metadata for name in ("ge", "le") if hasattr(rule, name)}
    assert limits == {"ge": one.low, "le": one.high}  # type: ignore[attr-defined]
    assert field.default == one.neutral  # type: ignore[attr-defined]
    assert takers_of(one.name)  # type: ignore[attr-defined]


def test_every_option_of_a_sampler_can_be_asked_for() -> None:
    of_samplers = {name for method in SAMPLERS.values() for name in method.option_names()}
    assert of_samplers == {one.name for one in METHOD_OPTIONS}


@pytest.mark.parametrize("command", [sample, fid, animate])
def test_commands_that_sample_take_all_of_them(command: object) -> None:
    parameters = list(inspect.signature(command).parameters)  # type: ignore[arg-type]
    assert [name for name in parameters if name in NAMES] == NAMES
    assert "request" not in parameters


def test_a_command_can_take_some() -> None:
    parameters = inspect.signature(likelihood).parameters
    assert [name for name in parameters if name in ("eta", "delta", "label", "final")] == ["delta"]


def test_records_and_titles_have_every_option() -> None:
    assert (*NAMES, "guide") == SAMPLING
    values = {"eta": 0.5, "delta": 0.25, "label": "cat", "guidance": 3.0, "final": "denoised"}
    chosen = SamplingConfig("ddim", 7, **values)
    assert chosen.record == {"sampler": "ddim", "steps": 7, **values, "guide": None}
    assert chosen.title == "ddim, 7 steps, eta 0.5, delta 0.25, class cat, guidance 3, final denoised"
    assert sampling_title(chosen.record) == "ddim eta 0.5 delta 0.25 class cat guidance 3 final denoised"
    assert SamplingConfig("abm", 7).title == "abm, 7 steps"
    assert {one.name for one in SamplingRequest(**values).given()} == set(values)
    assert [field.name for field in dataclasses.fields(SamplingConfig)] == list(SAMPLING)
