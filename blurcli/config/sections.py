"""What a preset may say: one model a section, each key with its type, default and description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

Positive = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=4, le=4096)]
Multiplier = Annotated[int, Field(ge=1, le=64)]
Level = Annotated[int, Field(ge=0)]


def _no_file(value: Any) -> Any:
    # A network's file is code, and a preset may be anybody's.
    if isinstance(value, str) and value not in ("inception", "pixels"):
        raise ValueError("only inception or pixels; a network's file is code, and named by the flag --features of blurdiff fid")
    return value


Features = Annotated[Literal["inception", "pixels"], BeforeValidator(_no_file)]


class Section(BaseModel):
    """What all sections share: no unknown keys, no change once made, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _keep_booleans_apart(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would read `steps: yes` as 1.
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation not in (bool, bool | None):
            raise ValueError("true and false (or yes and no) are not allowed here")
        return value


class DataConfig(Section):
    """Which images are learned."""

    source: str = Field(
        "shapes", min_length=1, description="shapes, cifar10, cifar100, mnist, fashion-mnist, or a folder or .zip of images"
    )
    image_size: tuple[Side, Side] = Field((32, 32), description="height and width in pixels; one number for a square")
    channels: Literal[1, 3] = Field(3, description="1 for grey, 3 for colour")
    flip: bool = Field(True, description="mirror half of the images, left to right")
    augment: float = Field(
        0.0,
        ge=0,
        le=1,
        description="chance of each geometric change (mirrored, scaled, turned, ...), of which the network is told",
    )
    shapes_count: int = Field(20_000, ge=1, le=10_000_000, description="how many images source: shapes draws")
    value_range: tuple[float, float] | None = Field(
        None, description="values that become 0 and 255 in grey files of more than 8 bits; null for [0, 65535]"
    )
    shapes_objects: int = Field(
        2, ge=1, le=2, description="most objects in an image of source: shapes; with 1 they have classes"
    )
    classes: int | None = Field(
        None, ge=2, le=100_000, description="number of classes to learn, for --class and --guidance; null to learn none"
    )
    max_broken: int = Field(0, ge=0, description="unreadable files that are left out, by name; more of them end the command")

    @field_validator("image_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int | float | str) else value

    @model_validator(mode="after")
    def _rising(self) -> DataConfig:
        if self.value_range is not None and self.value_range[0] >= self.value_range[1]:
            raise ValueError("value_range must rise, as [0, 4095] does")
        return self


class DiffusionConfig(Section):
    """The diffusion: how images turn into noise."""

    kind: Literal["diffusion"] = Field("diffusion", description="diffusion, or heat for inverse heat dissipation")
    blur_sigma_max: float = Field(20.0, ge=0, description="largest blur, in pixels; 0 is plain denoising diffusion")
    blur_schedule: Literal["sin2", "linear", "cosine-power"] = Field(
        "sin2", description="growth of the blur over time: sin^2(pi t / 2) (the paper's), t, or 1 - cos^p(pi t / 2)"
    )
    blur_power: float | None = Field(
        None, ge=1, le=100, description="p of cosine-power: 2 is sin2, more blurs earlier, less later; null for other schedules"
    )
    min_scale: float = Field(1e-3, gt=0, le=1, description="the smallest factor that blur gives to a frequency")
    logsnr_min: float = Field(-10.0, ge=-30, description="log signal-to-noise ratio at t = 1")
    logsnr_max: float = Field(10.0, le=30, description="log signal-to-noise ratio at t = 0")

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionConfig:
        if self.logsnr_min >= self.logsnr_max:
            raise ValueError("logsnr_min must be below logsnr_max")
        if (self.blur_power is None) == (self.blur_schedule == "cosine-power"):
            raise ValueError("blur_power is for blur_schedule: cosine-power, which needs it; for others it is null")
        return self


class HeatConfig(Section):
    """Inverse heat dissipation: how images blur."""

    kind: Literal["heat"] = Field("heat", description="heat, or diffusion for (blurring) diffusion")
    blur_sigma_max: float = Field(24.0, gt=0, description="blur of the last level, in pixels")
    blur_sigma_min: float = Field(0.5, gt=0, description="blur of level 1, in pixels; the levels are log-spaced")
    levels: int = Field(200, ge=2, le=10_000, description="blur levels, the image itself not counted")
    noise: float = Field(0.01, gt=0, le=1, description="noise on blurred images in training, where black is 0 and white 1")

    @model_validator(mode="after")
    def _rising(self) -> HeatConfig:
        if self.blur_sigma_min >= self.blur_sigma_max:
            raise ValueError("blur_sigma_min must be below blur_sigma_max")
        return self


def _kind(process: Any) -> Any:
    return process.get("kind", "diffusion") if isinstance(process, dict) else getattr(process, "kind", "diffusion")


ProcessConfig = Annotated[
    Annotated[DiffusionConfig, Tag("diffusion")] | Annotated[HeatConfig, Tag("heat")],
    Discriminator(
        _kind,
        custom_error_type="unknown_kind",
        custom_error_message="process.kind must be diffusion or heat",
    ),
]


class ModelConfig(Section):
    """The U-Net."""

    base_channels: int = Field(128, ge=4, le=4096, multiple_of=4, description="width of level 0")
    multipliers: tuple[Multiplier, ...] = Field(
        (1, 2, 2, 2), min_length=1, max_length=10, description="width of each level over base_channels"
    )
    blocks_per_level: int = Field(4, ge=1, le=64, description="residual blocks a level on the way down")
    attention_levels: tuple[Level, ...] = Field((2, 3), max_length=10, description="levels with attention, from 0")
    head_channels: Positive | None = Field(None, description="channels an attention head; null for one head")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout while training")
    patch_size: int = Field(1, ge=1, le=64, description="pixels a side folded into channels before level 0")

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if any(level >= len(self.multipliers) for level in self.attention_levels):
            raise ValueError(
                f"attention_levels count from 0 and must be below {len(self.multipliers)}, the number of multipliers"
            )
        widths = {self.base_channels * multiplier for multiplier in self.multipliers}
        if self.head_channels is not None and any(width % self.head_channels for width in widths):
            raise ValueError(f"head_channels must divide the width of every level ({sorted(widths)})")
        return self

    @property
    def stride(self) -> int:
        """Both sides of an image must be multiples of this."""
        return int(self.patch_size * 2 ** (len(self.multipliers) - 1))


class OptimConfig(Section):
    """Adam, its learning rate, and the moving average of the weights."""

    lr: float = Field(2e-4, gt=0, le=1, description="learning rate after warm-up")
    beta2: float = Field(0.999, gt=0, lt=1, description="Adam's decay of the squared gradient")
    warmup_steps: int = Field(5000, ge=0, description="steps over which the learning rate rises from 0")
    decay_from_step: Positive | None = Field(None, description="from here lr falls as 1 / sqrt(step); null for constant")
    grad_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    loss_weight: Literal["balanced", "paper", "min-snr", "sigmoid"] = Field(
        "balanced",
        description="paper: 1; balanced: more where little of the signal is left; min-snr, sigmoid: less where nearly all is",
    )
    time_sampling: Literal["path", "uniform"] = Field(
        "path", description="path: two thirds of the times where the image forms, as abm steps; uniform: as published"
    )
    class_dropout: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of images whose class is not told in training, for guidance; without data.classes, none",
    )
    ema_decay: float = Field(0.9999, ge=0, lt=1, description="decay a step of the moving average; shorter at the start")


class TrainConfig(Section):
    """How long, and what is written when."""

    steps: int = Field(200_000, ge=1, description="length of the training")
    batch_size: int = Field(128, ge=1, le=65_536, description="images a step, over all processes")
    micro_batch: Positive | Literal["auto"] | None = Field(
        None, description="images in one pass through the network; null for all, auto for as many as a GPU's memory holds"
    )
    checkpoint_activations: bool = Field(False, description="less memory for about a third more time, for large images")
    channels_last: bool | None = Field(None, description="channels last in memory, in training and sampling; null: on GPUs")
    compile: bool | None = Field(None, description="the network by torch.compile; null: on GPUs")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="of the network; auto: bf16 where the hardware has it"
    )
    log_every_steps: Positive = Field(100, description="a line in metrics.jsonl and TensorBoard")
    preview_every_steps: Positive = Field(5000, description="a grid of samples, always of the same seeds")
    preview_images: int = Field(64, ge=1, le=10_000, description="images in a preview")
    save_every_steps: Positive = Field(5000, description="weights, and the state for an exact resume")
    keep: Positive | None = Field(None, description="weights files that stay, the newest ones; null for all")
    health_every_steps: Positive | None = Field(
        1000, description="the loss by time and frequency band, in health.jsonl and TensorBoard; null for none"
    )
    max_bad_steps: Positive = Field(
        10, description="steps in a row without a finite loss that are skipped before the last saved state is restored"
    )
    deterministic: bool = Field(False, description="deterministic algorithms, for an exact resume on a GPU too; slower there")
    score_every_steps: Positive | None = Field(None, description="a line in evaluations.jsonl and TensorBoard; null for none")
    score_images: int = Field(1000, ge=2, description="samples in such a score, against the training images")
    score_features: Features = Field("pixels", description="of such a score, as score.features; pixels are cheap")


class SampleConfig(Section):
    """How images are made from a trained network."""

    sampler: Literal["abm", "ab2", "euler", "ancestral", "ddim", "dpmpp-2m", "heat"] = Field(
        "abm", description="the solver; heat for, and only for, heat dissipation"
    )
    steps: int = Field(20, ge=1, le=10_000, description="calls of the network an image")
    eta: float = Field(0.0, ge=0, le=1, description="noise of ddim's steps: 0 none, 1 as much as ancestral's")
    delta: float | None = Field(
        None, ge=0, le=1, description="noise that a step of sampler heat adds, where black is 0 and white 1; null for others"
    )
    guidance: float = Field(
        1.0, ge=0, le=100, description="of images of a class: 1 none, more for images more typical of it; for data.classes"
    )
    batch_size: int | None = Field(
        None, ge=1, le=65_536, description="images in flight at a time; null for what suits the memory"
    )
    compile: bool | None = Field(None, description="the network by torch.compile; null: on GPUs, for many images")

    @model_validator(mode="after")
    def _noise_where_it_belongs(self) -> SampleConfig:
        if self.eta and self.sampler != "ddim":
            raise ValueError(f"eta is for sampler: ddim; {self.sampler} has no use for it")
        if (self.delta is None) == (self.sampler == "heat"):
            raise ValueError("delta is for sampler: heat, which needs it (0.0125, say); for others it is null")
        return self


class ScoreConfig(Section):
    """How samples are scored."""

    n: int = Field(50_000, ge=2, description="number of samples")
    split: Literal["train", "test"] = Field("train", description="reference images")
    mode: Literal["clean", "legacy_tensorflow", "legacy_pytorch"] = Field(
        "clean", description="clean-fid's resizing and network"
    )
    features: Features = Field("inception", description="inception (FID) or pixels (FD)")


class Config(Section):
    """A whole experiment."""

    seed: int = Field(0, ge=0, lt=2**63, description="of weights, data order and noise")
    objective: Literal["spectral", "v", "eps", "residual"] = Field(
        "spectral", description="what the network predicts; as published: eps for diffusion, residual for heat dissipation"
    )
    data: DataConfig = Field(default_factory=DataConfig)
    process: ProcessConfig = Field(default_factory=DiffusionConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    sample: SampleConfig = Field(default_factory=SampleConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)

    @model_validator(mode="after")
    def _sizes(self) -> Config:
        if any(side % self.model.stride for side in self.data.image_size):
            raise ValueError(
                f"data.image_size {list(self.data.image_size)}: both sides must be multiples of {self.model.stride} "
                "(model.patch_size times 2 for every level after the first)"
            )
        return self

    @model_validator(mode="after")
    def _guidance_by_classes(self) -> Config:
        if self.sample.guidance != 1 and (self.data.classes is None or not self.optim.class_dropout):
            raise ValueError("sample.guidance: needs data.classes, and an optim.class_dropout above 0; set it to 1")
        return self

    @model_validator(mode="after")
    def _of_one_family(self) -> Config:
        heat = isinstance(self.process, HeatConfig)
        objectives = ("spectral", "residual") if heat else ("spectral", "v", "eps")
        if self.objective not in objectives:
            raise ValueError(
                f"objective {self.objective}: for process.kind {self.process.kind} it is {' or '.join(objectives)}"
            )
        if (self.sample.sampler == "heat") != heat:
            fitting = "heat, with a sample.delta," if heat else "any but heat"
            raise ValueError(f"sample.sampler {self.sample.sampler}: for process.kind {self.process.kind} it must be {fitting}")
        if isinstance(self.process, HeatConfig):
            if self.optim.time_sampling != "uniform":
                raise ValueError("optim.time_sampling path: heat dissipation trains all levels alike; set it to uniform")
            if self.sample.steps > self.process.levels:
                raise ValueError(f"sample.steps {self.sample.steps}: must be at most process.levels, {self.process.levels}")
            if self.objective == "residual" and self.sample.steps != self.process.levels:
                raise ValueError(f"sample.steps: objective residual goes down level by level, in {self.process.levels} steps")
        return self
