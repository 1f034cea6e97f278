"""`model`: backbone and decoder of the segmenter."""

from itertools import pairwise

from pydantic import Field, field_validator

from foodseg.config.section import Section


class ModelConfig(Section):
    """A timm feature pyramid and an FPN decoder."""

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
