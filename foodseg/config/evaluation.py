"""`eval`: how a picture is shown to the model when it is scored or labelled."""

from typing import Literal

from pydantic import Field, model_validator

from foodseg.config.section import Section


class EvalConfig(Section):
    """Used by validation in training, by `evaluate` and by `predict`; scores are taken at the mask's own resolution."""

    longest_side: int | None = Field(
        512, ge=8, le=16384, description="pixels of the longer side shown to the model; null = the picture's own"
    )
    window: int | None = Field(
        None, ge=32, description="side of a sliding window in pixels; null = the whole picture at once"
    )
    stride: int | None = Field(None, ge=1, description="step of the sliding window; null = two thirds of it")
    flip: bool = Field(False, description="average with the mirrored picture")
    weights: Literal["student", "ema"] = Field("ema", description="the trained weights or their running average (EMA)")

    @model_validator(mode="after")
    def _window_and_stride(self) -> "EvalConfig":
        if self.stride is not None and self.window is None:
            raise ValueError("eval.stride needs eval.window: without a window the whole picture is taken at once")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"eval.stride ({self.stride}) must not exceed eval.window ({self.window}): pixels would be left out"
            )
        return self
