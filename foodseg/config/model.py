"""`model`: backbone, text fusion and decoder of the segmenter."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, field_validator, model_validator

from foodseg.config.section import Section
from foodseg.config.text import TextConfig


class ModelConfig(Section):
    """A timm feature pyramid, an FPN decoder, and between them what the names of the ingredients tell."""

    backbone: str = Field("tf_efficientnet_lite0", description="any timm model that supports features_only")
    weights: str | None = Field(
        None, description="backbone weights: null = random, 'timm' = timm's hub, else a .safetensors file or s3:// URI"
    )
    mean: tuple[float, float, float] = Field(
        (0.5, 0.5, 0.5), description="channel means that the backbone was trained with"
    )
    std: tuple[float, float, float] = Field(
        (0.5, 0.5, 0.5), description="channel deviations that the backbone was trained with"
    )
    strides: tuple[int, ...] = Field(
        (4, 8, 16, 32), min_length=1, description="strides of the backbone levels that the decoder fuses"
    )
    pyramid_channels: int = Field(256, ge=8, description="channels of the feature pyramid")
    decoder_channels: int = Field(128, ge=8, multiple_of=8, description="channels in front of the classifier")
    dropout: float = Field(0.2, ge=0, lt=1, description="channel dropout in front of the classifier")
    fusion: Literal["none", "score_map", "cross_attention", "film"] = Field(
        "none",
        description="how the names' vectors enter: not at all, as cosines with every place, as attention from every "
        "place to the names, or as scale and shift of all places",
    )
    fusion_stride: int | None = Field(
        None, description="stride of the level that score_map and cross_attention act on; null = the coarsest"
    )
    ingredient_head: bool = Field(
        False, description="also guess which ingredients are on the picture: for eval.ingredients=predicted and film"
    )
    text: TextConfig = Field(TextConfig(), description="vectors of the class names")

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(value) <= 0:
            raise ValueError(f"every deviation must be above 0, found {list(value)}")
        return value

    @field_validator("strides")
    @classmethod
    def _doubling(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(b != 2 * a for a, b in pairwise(value)):
            raise ValueError(f"each stride must be twice the one before, found {list(value)}")
        return value

    @model_validator(mode="after")
    def _fusion_has_what_it_needs(self) -> "ModelConfig":
        if (self.fusion == "none") != (self.text.kind == "none"):
            if self.fusion == "none":
                raise ValueError("model.text is used by model.fusion alone, which is none: set both or neither")
            raise ValueError(f"model.fusion = {self.fusion} needs model.text.kind: table or open_clip")
        if self.fusion == "film" and not self.ingredient_head:
            raise ValueError(
                "model.fusion = film needs model.ingredient_head: true, whose guess it takes where no list is given"
            )
        if self.fusion_stride is not None:
            if self.fusion not in ("score_map", "cross_attention"):
                raise ValueError(f"model.fusion_stride is not used by model.fusion = {self.fusion}: leave it null")
            if self.fusion_stride not in self.strides:
                raise ValueError(
                    f"model.fusion_stride must be one of model.strides {list(self.strides)}, found {self.fusion_stride}"
                )
        return self
