"""How images are sampled: every option is declared once, here.

Command line, Python, presets, records, tables and file names read names, ranges, titles and help from these fields. Imports no
torch. To add an option of a sampler: a field of the sampler, a field of `SamplingRequest`, and a key in the section `sample` of
presets.
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypedDict

from blurcli.core.samplers import FINALS, SAMPLERS


class SamplingOption(NamedTuple):
    """One option.

    Attributes:
        name: as a keyword in Python and as a key of records.
        kind: int, float or str.
        help: what it does.
        default: in words, where nothing is chosen.
        low: least value; None for no limit.
        high: largest value, likewise.
        choices: all values; None for any in the range.
        flag: on the command line, without dashes.
        title: in tables, titles and file names.
        neutral: the value that is the same as none.
    """

    name: str
    kind: type
    help: str
    default: str
    low: float | None
    high: float | None
    choices: tuple[str, ...] | None
    flag: str
    title: str
    neutral: Any

    def mark(self, value: Any) -> str:
        """A value in the name of a file, as in `eta0.5`."""
        return f"{self.title}{value:g}" if isinstance(value, int | float) else str(value)

    def shown(self, value: Any) -> str:
        """A value with its title, as in `eta 0.5`."""
        return f"{self.title} {value:g}" if isinstance(value, int | float) else f"{self.title} {value}"


def _declared(
    kind: type,
    text: str,
    default: str = "the preset's",
    limits: tuple[float | None, float | None] = (None, None),
    choices: tuple[str, ...] | None = None,
    title: str | None = None,
    neutral: Any = None,
) -> Any:
    fixed = {"kind": kind, "help": text, "default": default, "low": limits[0], "high": limits[1]}
    return dataclasses.field(default=None, metadata={**fixed, "choices": choices, "title": title, "neutral": neutral})


@dataclass(frozen=True)
class SamplingRequest:
    """How images are wanted; None is the preset's way.

    Attributes:
        sampler: name of the method.
        steps: steps of the sampler, at least 1.
        eta: noise of `ddim`, in [0, 1].
        delta: noise per step of `heat`, for images in [0, 1].
        label: for a class-conditional model, the name of a class; `none`; `all` in turn; None for the class frequencies of the
            training data.
        guidance: classifier-free guidance, or by a guide, in [0, 100]; 1 is none.
        final: for diffusion, `noisy` or `denoised`, see `core.sample`.
    """

    sampler: str | None = _declared(str, "Sampling method.", choices=tuple(SAMPLERS))
    steps: int | None = _declared(int, "Steps of the sampler.", limits=(1, None))
    eta: float | None = _declared(float, "Noise of ddim, 0 to 1; 1 is that of ancestral.", limits=(0, 1), neutral=0.0)
    delta: float | None = _declared(float, "Noise per step of heat, for images in [0, 1].", limits=(0, 1))
    label: str | None = _declared(
        str, "Name of a class; all, in turn; or none.", "the frequencies of the training data", title="class"
    )
    guidance: float | None = _declared(
        float,
        "Classifier-free guidance, or by --guide; 1 is none.",
        "the preset's; with --guide 2",
        limits=(0, 100),
        neutral=1.0,
    )
    final: str | None = _declared(str, "End with the noise of t = 0, under a grey level, or without any.", choices=FINALS)

    def given(self) -> dict[SamplingOption, Any]:
        """The options that are chosen, with their values."""
        return {one: value for one in SAMPLING_OPTIONS if (value := getattr(self, one.name)) is not None}


class SamplingKeywords(TypedDict, total=False):
    """The fields of `SamplingRequest` as keywords."""

    sampler: str
    steps: int
    eta: float
    delta: float
    label: str
    guidance: float
    final: Literal["noisy", "denoised"]


@dataclass(frozen=True)
class SamplingConfig(SamplingRequest):
    """How images are sampled: a request resolved against a model; recorded field by field with every score.

    Attributes:
        sampler, steps, eta, delta, label, guidance, final: see `SamplingRequest`; options that the sampler does not have are
            neutral, and `final` is None for heat dissipation, whose last step adds no noise.
        guide: digest of the weaker model that guides; None for none.
    """

    sampler: str = ""
    steps: int = 1
    guidance: float = 1.0
    guide: str | None = None

    @property
    def method_options(self) -> dict[str, Any]:
        """The options of its sampler."""
        return {name: getattr(self, name) for name in SAMPLERS[self.sampler].option_names()}

    @property
    def stochastic(self) -> bool:
        """Whether the steps draw noise."""
        return SAMPLERS[self.sampler](**self.method_options).stochastic

    @property
    def calls(self) -> int:
        """Network calls per image: those of its steps, twice where guidance needs a second prediction, see `GuidedNetwork`."""
        guided = self.guidance != 1 and (self.guide is not None or self.label != "none")
        return self.steps * SAMPLERS[self.sampler].calls_per_step * (1 + guided)

    @property
    def title(self) -> str:
        """In words: `abm, 20 steps, final denoised`."""
        others = ((one, getattr(self, one.name)) for one in SAMPLING_OPTIONS if one.name not in ("sampler", "steps"))
        shown = (one.shown(value) for one, value in others if value not in (None, one.neutral))
        return ", ".join((self.sampler, f"{self.steps} steps", *shown))

    @property
    def record(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


SAMPLING_OPTIONS = tuple(
    SamplingOption(
        name=field.name,
        flag=field.metadata["title"] or field.name,
        **{**field.metadata, "title": field.metadata["title"] or field.name},
    )
    for field in dataclasses.fields(SamplingRequest)
)
"""All options, in order."""

METHOD_OPTIONS = tuple(
    one for one in SAMPLING_OPTIONS if any(one.name in method.option_names() for method in SAMPLERS.values())
)
"""Those that belong to some samplers."""
