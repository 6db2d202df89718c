"""A whole preset: all sections, and the checks across sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from blurcli.config.processes import DiffusionConfig, ProcessConfig
from blurcli.config.schema import DataConfig, DistillConfig, ModelConfig, OptimConfig, SampleConfig, ScoreConfig, TrainConfig
from blurcli.config.section import Section, one_of
from blurcli.core.objectives import OBJECTIVES
from blurcli.core.samplers import names_for


class Config(Section):
    """A whole experiment."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, data order and noise")
    objective: Annotated[str, one_of(OBJECTIVES)] = Field(
        "spectral", description="what the network predicts; in the papers: eps for diffusion, residual for heat dissipation"
    )
    data: DataConfig = Field(default_factory=DataConfig)
    process: ProcessConfig = Field(default_factory=DiffusionConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
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
        kind = self.process.kind
        objectives = [name for name, objective in OBJECTIVES.items() if kind in objective.families]
        if self.objective not in objectives:
            raise ValueError(f"objective {self.objective}: for process.kind {kind} it must be {' or '.join(objectives)}")
        predicts_endpoint = OBJECTIVES[self.objective].predicts_endpoint
        samplers = names_for(kind, predicts_endpoint)
        if self.sample.sampler not in samplers:
            which = f"objective {self.objective}" if predicts_endpoint else f"process.kind {kind}"
            raise ValueError(f"sample.sampler {self.sample.sampler}: for {which} it must be {' or '.join(samplers)}")
        self.process.check(self.objective, self.optim, self.sample)
        return self
