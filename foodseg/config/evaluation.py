"""`eval`: size, windows, weights and conditioning when images are scored or labelled."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from foodseg.config.marks import SetByAblation
from foodseg.config.section import Section


class EvalConfig(Section):
    """Used by validation in training, by `evaluate` and by `predict`; scores are taken at the mask's own resolution."""

    longest_side: int | None = Field(
        512, ge=8, le=16384, description="pixels of the longer side shown to the model; null = the image's own"
    )
    scales: tuple[float, ...] = Field(
        (1.0,),
        min_length=1,
        description="factors of longest_side: an image is shown at each of these sizes, with `flip` mirrored too, and "
        "the scores are averaged on the grid of the largest",
    )
    window: int | None = Field(
        None, ge=32, description="side of a sliding window in pixels; null = the whole image at once"
    )
    stride: int | None = Field(None, ge=1, description="step of the sliding window; null = two thirds of it")
    flip: bool = Field(False, description="average with the mirrored image")
    logit_adjustment: float = Field(
        0.0,
        ge=0,
        le=10,
        description="tau of z_k - tau log pi_k, with pi_k the share of class k among the training pixels: raises rare "
        "classes; choose it on val",
    )
    weights: Annotated[Literal["student", "ema"], SetByAblation()] = Field(
        "ema", description="the trained weights, or the averaged ones (train.ema_horizon)"
    )
    ingredients: Literal["vocabulary", "predicted", "provided"] = Field(
        "vocabulary",
        description="conditioning classes of an image: the whole vocabulary, those that the model predicts for it, or "
        "those that are provided with it (`predict --ingredients`; `evaluate` provides the true ones: an oracle)",
    )
    ingredients_threshold: float = Field(
        0.2, gt=0, lt=1, description="ingredients=predicted: lowest predicted probability of a conditioning class"
    )
    restrict: Literal["none", "soft", "hard"] = Field(
        "none",
        description="effect of the conditioning classes on the scores: none, soft = lower those of improbable classes, "
        "hard = rule out all other classes",
    )
    restrict_lambda: float = Field(
        1.0, gt=0, description="restrict=soft: weight of log(probability + 0.01); choose it on val"
    )

    @field_validator("scales")
    @classmethod
    def _factors(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.1 <= scale <= 10 for scale in value) or len(set(value)) < len(value):
            raise ValueError(f"factors from 0.1 to 10 are needed, each once, found {list(value)}")
        return value

    @model_validator(mode="after")
    def _window_and_stride(self) -> "EvalConfig":
        if self.stride is not None and self.window is None:
            raise ValueError("eval.stride needs eval.window: without a window the whole image is taken at once")
        if self.window is not None and self.stride is not None and self.stride > self.window:
            raise ValueError(
                f"eval.stride ({self.stride}) must not exceed eval.window ({self.window}): pixels would be left out"
            )
        return self

    @model_validator(mode="after")
    def _sizes(self) -> "EvalConfig":
        sides = [] if self.longest_side is None else [round(self.longest_side * scale) for scale in self.scales]
        if sides and not 8 <= min(sides) <= max(sides) <= 16384:
            raise ValueError(
                f"eval.longest_side ({self.longest_side}) x eval.scales must be from 8 to 16384 pixels, found {sides}"
            )
        return self

    @model_validator(mode="after")
    def _something_to_restrict_by(self) -> "EvalConfig":
        if self.restrict != "none" and self.ingredients == "vocabulary":
            raise ValueError("eval.restrict needs conditioning classes: set eval.ingredients to predicted or provided")
        return self
