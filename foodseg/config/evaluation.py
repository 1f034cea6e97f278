"""`eval`: how an image is shown to the model when it is scored or labelled."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from foodseg.config.marks import SetByAblation
from foodseg.config.section import Section


class EvalConfig(Section):
    """Used by validation in training, by `evaluate` and by `predict`; scores are taken at the mask's own resolution."""

    longest_side: int | None = Field(
        512, ge=8, le=16384, description="pixels of the longer side shown to the model; null = the image's own"
    )
    window: int | None = Field(
        None, ge=32, description="side of a sliding window in pixels; null = the whole image at once"
    )
    stride: int | None = Field(None, ge=1, description="step of the sliding window; null = two thirds of it")
    flip: bool = Field(False, description="average with the mirrored image")
    weights: Annotated[Literal["student", "ema"], SetByAblation()] = Field(
        "ema", description="the trained weights or their running average (EMA)"
    )
    ingredients: Literal["vocabulary", "predicted", "provided"] = Field(
        "vocabulary",
        description="which names may be on an image: all, those that the model guesses from it, or those that are "
        "given with it (`predict --ingredients`; `evaluate` gives the true ones: an oracle)",
    )
    ingredients_threshold: float = Field(
        0.2, gt=0, lt=1, description="least probability of a guessed name to be on the list, for ingredients=predicted"
    )
    restrict: Literal["none", "soft", "hard"] = Field(
        "none",
        description="what the list does to the scores of the classes themselves: nothing, lower them where a name is "
        "improbable, or rule out the names that are not on it",
    )
    restrict_lambda: float = Field(
        1.0, gt=0, description="weight of log(probability + 0.01) for restrict=soft; choose it on val"
    )

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
    def _something_to_restrict_by(self) -> "EvalConfig":
        if self.restrict != "none" and self.ingredients == "vocabulary":
            raise ValueError("eval.restrict needs a list: set eval.ingredients to predicted or provided")
        return self
