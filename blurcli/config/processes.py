"""The section `process` of a preset: one model per family of processes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from blurcli.config.schema import OptimConfig, SampleConfig
from blurcli.config.section import Section, one_of
from blurcli.core.blur_schedules import BLUR_SCHEDULES
from blurcli.core.objectives import OBJECTIVES


class DiffusionConfig(Section):
    """Blurring diffusion; without blur, plain denoising diffusion."""

    kind: Literal["diffusion"] = Field("diffusion", description="diffusion, or heat for inverse heat dissipation")
    blur_schedule: Annotated[str, one_of(BLUR_SCHEDULES)] = Field(
        "sin2",
        description="growth of the blur: sin^2(pi t / 2) (the paper's), t, t^p, 1 - cos^p(pi t / 2), or r noise / signal",
    )
    blur_sigma_max: float | None = Field(
        default_factory=lambda valid: None if valid.get("blur_schedule") == "noise-ratio" else 20.0,
        ge=0,
        description="largest blur, in pixels; 0 is plain denoising diffusion; null for noise-ratio without a limit",
    )
    blur_power: float | None = Field(
        None,
        ge=1,
        le=100,
        description="p of power, where larger p blurs later, and of cosine-power, where it blurs earlier; null for others",
    )
    blur_noise_ratio: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="r of noise-ratio: pixels of blur per noise over signal, constant as in Warm Diffusion (arXiv 2511.16904); "
        "null for other schedules",
    )
    min_scale: float = Field(1e-3, gt=0, le=1, description="lower bound of the frequency scaling of the blur")
    logsnr_min: float = Field(-10.0, ge=-30, description="log signal-to-noise ratio at t = 1")
    logsnr_max: float = Field(10.0, le=30, description="log signal-to-noise ratio at t = 0")

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionConfig:
        if self.logsnr_min >= self.logsnr_max:
            raise ValueError("logsnr_min must be below logsnr_max")
        curve = BLUR_SCHEDULES[self.blur_schedule]
        if self.blur_sigma_max is None and curve.needs_limit:
            raise ValueError("blur_sigma_max: null is for blur_schedule: noise-ratio; for others it is a number of pixels")
        if (self.blur_power is None) == (curve.option == "power"):
            raise ValueError("blur_power is for blur_schedule: power or cosine-power, which need it; for others it is null")
        if (self.blur_noise_ratio is None) == (curve.option == "ratio"):
            raise ValueError("blur_noise_ratio is for blur_schedule: noise-ratio, which needs it; for others it is null")
        return self

    def check(self, objective: str, optim: OptimConfig, sample: SampleConfig) -> None:
        """Check the other sections of a configuration; ValueError if they do not fit this family."""


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

    def check(self, objective: str, optim: OptimConfig, sample: SampleConfig) -> None:
        """Check the other sections of a configuration; ValueError if they do not fit this family."""
        if optim.time_sampling != "uniform":
            raise ValueError("optim.time_sampling path: heat dissipation trains all levels alike; set it to uniform")
        if sample.final is not None:
            raise ValueError("sample.final: the last step of heat dissipation adds no noise; set it to null")
        if sample.steps > self.levels:
            raise ValueError(f"sample.steps {sample.steps}: must be at most process.levels, {self.levels}")
        if not OBJECTIVES[objective].predicts_image and sample.steps != self.levels:
            raise ValueError(
                f"sample.steps: objective {objective} is sampled level by level; set it to process.levels, {self.levels}"
            )


def _kind(process: Any) -> Any:
    return process.get("kind", "diffusion") if isinstance(process, dict) else getattr(process, "kind", "diffusion")


PROCESS_KINDS: dict[str, type[DiffusionConfig | HeatConfig]] = {"diffusion": DiffusionConfig, "heat": HeatConfig}

ProcessConfig = Annotated[
    Annotated[DiffusionConfig, Tag("diffusion")] | Annotated[HeatConfig, Tag("heat")],
    Discriminator(
        _kind,
        custom_error_type="unknown_kind",
        custom_error_message=f"process.kind must be {' or '.join(PROCESS_KINDS)}",
    ),
]
