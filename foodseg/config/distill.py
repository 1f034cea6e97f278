"""`distill`: self-distillation, and the conditioning classes of teacher and student."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from foodseg.config.marks import MayChangeOnResume, Uri
from foodseg.config.section import Section


class DistillConfig(Section):
    """Self-distillation. The teacher is the running average of the weights (EMA, `train.ema_horizon`).

    The weights of its loss terms are `loss.distill`, `features`, `stages`, `deeper` and `attention`. `conditioning_mix`
    and `drop` apply to every model with text fusion (`model.fusion` other than none), with a teacher or without.
    """

    teacher: Annotated[tuple[str, ...], Uri(schemes=("hf://",))] = Field(
        (),
        description="checkpoints that label the training images softly, once, before the first update: a run, a "
        "checkpoint directory or hf://owner/name, or a list of them; an image is labelled by the first that was not "
        "trained on it, else by the first; empty = none",
    )
    labels: Annotated[str | None, Uri(written=True), MayChangeOnResume()] = Field(
        None,
        description="folder or s3:// URI that keeps the soft labels of distill.teacher, for any number of runs; null = "
        "the run directory",
    )
    temperature: float = Field(
        2.0,
        gt=0,
        le=100,
        description="temperature T that both logits are divided by; the loss is multiplied by T^2",
    )
    ramp: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the steps over which loss.distill rises to its weight, from the end of optim.warmup",
    )
    stages: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="strides of the decoder stages that loss.stages and loss.deeper compare; null = model.strides",
    )
    same_mode: bool = Field(
        False,
        description="compare in one mode: the student's features and logits without dropout, the teacher with the "
        "statistics of the batch, as the student",
    )
    teacher_conditioning: Literal["vocabulary", "present"] = Field(
        "present", description="conditioning classes of the teacher: all of them, or those present on the crop"
    )
    conditioning_mix: tuple[float, float, float, float] = Field(
        (0.5, 0.15, 0.2, 0.15),
        description="shares of the images whose student is conditioned on: all classes; those present on the crop; "
        "those present and some others; the same without some of those present",
    )
    drop: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="last share of conditioning_mix: probability that a class present is left out",
    )

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("conditioning_mix")
    @classmethod
    def _shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if min(value) < 0 or not math.isclose(sum(value), 1, abs_tol=1e-6):
            raise ValueError(f"four shares of at least 0 that add up to 1 are needed, found {list(value)}")
        return value
