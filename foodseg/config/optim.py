"""`optim`: AdamW and its learning rate over the steps."""

from typing import Literal

from pydantic import Field, field_validator

from foodseg.config.section import Section


class StageTwoConfig(Section):
    """The last part of a training with `model.realtime.context_tokens`, in which these are learned.

    Each stage has the whole schedule: warm-up and fall.
    """

    begins: float = Field(0.75, gt=0, lt=1, description="share of the updates before it, which are stage one")
    context_lr: float = Field(2e-3, gt=0, description="peak learning rate of the context tokens, which are not decayed")
    network_factor: float = Field(0.1, ge=0, description="factor of the peak learning rates of the network")


class OptimConfig(Section):
    """AdamW with two groups of rates (backbone, rest); the schedule moves per step."""

    lr: float = Field(1e-3, gt=0, description="peak learning rate of everything but the backbone")
    backbone_lr_factor: float = Field(0.1, ge=0, description="the backbone's learning rate as a factor of `lr`")
    weight_decay: float = Field(1e-3, ge=0, description="decoupled weight decay (not on biases and normalisation)")
    betas: tuple[float, float] = Field((0.9, 0.999), description="AdamW's betas; one_cycle moves the first")
    schedule: Literal["one_cycle", "poly", "cosine"] = Field(
        "one_cycle", description="shape of the learning rate over the steps"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps in which the rate rises")
    poly_power: float = Field(0.9, gt=0, description="power of the poly schedule")
    clip_norm: float | None = Field(
        None, gt=0, description="gradient norm above which gradients are scaled down; null = never"
    )
    stage_two: StageTwoConfig = Field(
        StageTwoConfig(), description="learning the context tokens of model.realtime.context_tokens"
    )

    @field_validator("betas")
    @classmethod
    def _shares(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"each beta must be at least 0 and below 1, found {list(value)}")
        return value
