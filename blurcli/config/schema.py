"""The sections of a preset: one pydantic model per section, each key with its type, default and description.

Choices are read from the registries of `core`; none of them imports torch.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from blurcli.base.errors import did_you_mean
from blurcli.config.section import FIXED, FREE, Section, one_of
from blurcli.config.source_names import DATASET_NAMES
from blurcli.core.samplers import DEFAULT_FINAL, SAMPLERS, takers_of
from blurcli.core.sampling_options import METHOD_OPTIONS
from blurcli.core.weighting import LOSS_WEIGHTS
from blurcli.trackers import TRACKERS

Positive = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=4, le=4096)]
Multiplier = Annotated[int, Field(ge=1, le=64)]
Level = Annotated[int, Field(ge=0)]


def _no_file(value: Any) -> Any:
    # The file of a network is code, and a preset may come from anyone.
    if isinstance(value, str) and value not in ("inception", "pixels"):
        raise ValueError("only inception or pixels; the file of a network is code, which a preset cannot name")
    return value


Features = Annotated[Literal["inception", "pixels"], BeforeValidator(_no_file)]


class DataConfig(Section):
    """The training images."""

    source: str = Field(
        "shapes",
        min_length=1,
        description=f"{', '.join(DATASET_NAMES)}, or a folder or .zip of images",
        json_schema_extra=FREE,
    )
    image_size: tuple[Side, Side] = Field((32, 32), description="height and width in pixels; one number for a square")
    channels: Literal[1, 3] = Field(3, description="1 for gray, 3 for color")
    crop: Literal["center", "random"] = Field(
        "center",
        description="of image files. center: resized to cover image_size, then cropped; random: patches at full detail",
    )
    crops: int = Field(
        100_000, ge=1, le=100_000_000, description="for crop: random, about how many patches to take from all files together"
    )
    centered: bool = Field(True, description="diffuse images in [-1, 1]; false: in [0, 1], as published implementations")
    flip: bool = Field(True, description="flip half of the images, left to right")
    augment: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of each geometric augmentation (flip, scale, rotation, ...); the network is conditioned on it",
    )
    shapes_count: int = Field(20_000, ge=1, le=10_000_000, description="number of images that source: shapes draws")
    value_range: tuple[float, float] | None = Field(
        None, description="values that become 0 and 255 in gray files of more than 8 bits; null for [0, 65535]"
    )
    shapes_objects: int = Field(
        2, ge=1, le=2, description="largest number of objects per image of source: shapes; with 1 the images have classes"
    )
    classes: int | None = Field(
        None, ge=2, le=100_000, description="number of classes of a class-conditional model; null for an unconditional one"
    )
    max_broken: int = Field(
        0, ge=0, description="unreadable files to skip and name; more of them end the command", json_schema_extra=FREE
    )

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int | float | str) else value

    @model_validator(mode="after")
    def _consistent(self) -> DataConfig:
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError("value_range must rise, as [0, 4095] does")
        if self.crop == "random" and self.classes is not None:
            raise ValueError("crop random is for models without classes: set data.classes to null")
        return self


class ModelConfig(Section):
    """The U-Net."""

    base_channels: int = Field(128, ge=4, le=4096, multiple_of=4, description="width of level 0")
    multipliers: tuple[Multiplier, ...] = Field(
        (1, 2, 2, 2), min_length=1, max_length=10, description="width of each level over base_channels"
    )
    blocks_per_level: int = Field(4, ge=1, le=64, description="residual blocks per level on the way down")
    attention_levels: tuple[Level, ...] = Field((2, 3), max_length=10, description="levels with attention, from 0")
    head_channels: Positive | None = Field(None, description="channels per attention head; null for one head")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout probability in training")
    patch_size: int = Field(1, ge=1, le=64, description="pixels per side folded into channels before level 0")
    time_scale: float = Field(1000.0, gt=0, le=1e6, description="factor on times in [0, 1] before their sinusoidal features")
    norm_groups: Positive | None = Field(
        None, description="groups of the group normalization; null for 32, or fewer of at least 4 channels"
    )

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if any(level >= len(self.multipliers) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels count from 0 and must be below {len(self.multipliers)}, the number of multipliers"
            )
        widths = {self.base_channels * multiplier for multiplier in self.multipliers}
        if self.head_channels is not None and any(width % self.head_channels for width in widths):
            raise ValueError(f"head_channels must divide the width of every level ({sorted(widths)})")
        if self.norm_groups is not None and any(width % self.norm_groups for width in {*widths, self.base_channels}):
            raise ValueError(f"norm_groups must divide the width of every level, and base_channels ({sorted(widths)})")
        return self

    @property
    def stride(self) -> int:
        """Both image sides must be multiples of this."""
        return int(self.patch_size * 2 ** (len(self.multipliers) - 1))


class OptimConfig(Section):
    """The optimizer, its learning rate, and the EMA of the weights."""

    optimizer: Literal["adam", "muon"] = Field(
        "adam", description="adam, or muon: orthogonalized updates for convolutions, Adam for all else"
    )
    lr: float = Field(2e-4, gt=0, le=1, description="learning rate after warm-up")
    beta2: float = Field(0.999, gt=0, lt=1, description="Adam's decay of the squared gradient")
    warmup_steps: int = Field(5000, ge=0, description="steps over which the learning rate rises from 0")
    decay_from_step: Positive | None = Field(None, description="from this step lr falls as 1 / sqrt(step); null for constant")
    cooldown: float = Field(
        0.0,
        ge=0,
        le=1,
        description="last share of train.steps in which lr falls linearly to 0 besides; 1 for all of it",
    )
    grad_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    loss_weight: Annotated[str, one_of(LOSS_WEIGHTS)] = Field(
        "balanced",
        description="paper: 1; balanced: more where little signal remains; min-snr, sigmoid: less where nearly all remains; "
        "consistency: for that objective, the same total weight at every time",
    )
    time_sampling: Literal["path", "uniform"] = Field(
        "path",
        description="path: two thirds of the times where the image forms, as in abm; uniform: as in the papers",
    )
    class_dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="fraction of training images without their class, for guidance; unused without data.classes",
    )
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="EMA decay per step (smaller during warm-up)")


class DistillConfig(Section):
    """Tuning of a consistency model; other objectives do not use it."""

    intervals: int = Field(16, ge=2, le=1024, description="parts of the path; the model is made consistent across each part")
    double_every_steps: Positive = Field(250, description="interval after which the parts, 2 at first, double, up to intervals")


class TrainConfig(Section):
    """Length, execution and outputs of the training."""

    free = True
    steps: int = Field(200_000, ge=1, description="length of the training")
    batch_size: int = Field(128, ge=1, le=65_536, description="images per step, over all processes", json_schema_extra=FIXED)
    micro_batch: Positive | Literal["auto"] | None = Field(
        None, description="images per forward and backward pass; null for all, auto for as many as a GPU's memory holds"
    )
    checkpoint_activations: bool = Field(False, description="recompute activations: less memory, about a third more time")
    channels_last: bool | None = Field(None, description="channels-last memory layout, in training and sampling; null: on GPUs")
    compile: bool | None = Field(None, description="compile the network with torch.compile; null: on GPUs")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="precision of the network; auto: bf16 where the hardware has it"
    )
    trackers: tuple[str, ...] = Field(
        ("tensorboard",), description=f"where metrics and previews are shown: any of {', '.join(TRACKERS)}; [] for none"
    )
    log_every_steps: Positive = Field(100, description="interval of metrics.jsonl and the trackers")
    preview_every_steps: Positive = Field(
        5000, description="interval of previews: grids of samples, always of the same seeds; one more at the end"
    )
    preview_images: int = Field(64, ge=1, le=10_000, description="images per preview")
    save_every_steps: Positive = Field(5000, description="interval of weights and of the state for an exact resume")
    keep: Positive | None = Field(None, description="number of weights files to keep, newest first; null for all")
    health_every_steps: Positive | Literal["auto"] | None = Field(
        "auto",
        description="interval of the loss by time and frequency band in health.jsonl and the trackers, also measured at the "
        "end; auto: an eighth of the training, from 100 to 1000 steps; null for never",
    )
    max_bad_steps: Positive = Field(
        10, description="consecutive steps without a finite loss after which the last saved state is restored"
    )
    deterministic: bool = Field(False, description="deterministic algorithms, for an exact resume on a GPU; slower there")
    score_every_steps: Positive | None = Field(None, description="interval of scores in evaluations.jsonl; null for never")
    score_images: int = Field(1000, ge=2, description="samples per score, against the training images")
    score_features: Features = Field("pixels", description="features of these scores, as score.features; pixels are cheap")

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_tracker(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("trackers")
    @classmethod
    def _known_trackers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in TRACKERS:
                raise ValueError(f"tracker {name!r} is unknown{did_you_mean(name, TRACKERS)} (known: {', '.join(TRACKERS)})")
            if names.count(name) > 1:
                raise ValueError(f"tracker {name!r} appears twice")
        return names


class SampleConfig(Section):
    """Sampling of images."""

    free = True
    sampler: Annotated[str, one_of(SAMPLERS)] = Field(
        "abm", description="the method; heat for, and only for, heat dissipation; consistency likewise for that objective"
    )
    steps: int = Field(20, ge=1, le=10_000, description="steps of the sampler")
    eta: float = Field(0.0, ge=0, le=1, description="noise of ddim: 0 for none, 1 for as much as ancestral")
    delta: float | None = Field(
        None, ge=0, le=1, description="noise per step of sampler heat, where black is 0 and white 1; null for others"
    )
    guidance: float = Field(
        1.0,
        ge=0,
        le=100,
        description="classifier-free guidance for data.classes: 1 for none, larger for more typical images",
    )
    final: Literal["noisy", "denoised"] | None = Field(
        None, description=f"end with the noise of t = 0, or without noise; null for the default ({DEFAULT_FINAL}), and for heat"
    )
    batch_size: int | None = Field(None, ge=1, le=65_536, description="images per batch; null for as many as fit into memory")
    compile: bool | None = Field(None, description="compile the network with torch.compile; null: on GPUs, for many images")

    @model_validator(mode="after")
    def _options_fit_sampler(self) -> SampleConfig:
        for one in METHOD_OPTIONS:
            value, takers = getattr(self, one.name), takers_of(one.name)
            if value != one.neutral and self.sampler not in takers:
                raise ValueError(f"{one.name} is for sampler: {', '.join(takers)}; {self.sampler} has no such option")
            if value is None and self.sampler in takers:
                raise ValueError(f"{one.name}: sampler {self.sampler} needs it; 0.0125, for example")
        return self


class ScoreConfig(Section):
    """Scoring of samples."""

    free = True
    n: int = Field(50_000, ge=2, description="number of samples")
    split: Literal["train", "test"] = Field("train", description="reference images")
    mode: Literal["clean", "legacy_tensorflow", "legacy_pytorch"] = Field(
        "clean", description="clean-fid's resizing and network"
    )
    features: Features = Field("inception", description="inception (FID) or pixels (FD)")
