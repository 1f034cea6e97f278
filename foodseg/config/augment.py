"""`augment`: what happens to a training image between decoding and the model."""

from pydantic import Field, field_validator

from foodseg.config.section import Section


class AugmentConfig(Section):
    """Geometry is drawn from the row's seed where the image is decoded; colour on the device, from the same seed."""

    longest_side: int = Field(512, ge=8, le=8192, description="pixels of the longer side before the random scale")
    scale: tuple[float, float] = Field((0.75, 1.75), description="range of the random scale (uniform)")
    crop: int = Field(
        512, ge=8, le=8192, multiple_of=8, description="side of the square crop in pixels; smaller images are padded"
    )
    class_aware: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that the crop is centred on a pixel of one of the image's classes, chosen uniformly",
    )
    paste: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability that some ingredients of another training image, of another source where there are "
        "several, are pasted onto the crop",
    )
    flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    contrast: tuple[float, float] = Field((0.8, 1.2), description="range of the contrast factor (about mid grey)")
    brightness: float = Field(
        0.1, ge=0, le=1, description="brightness is shifted by up to this share of the full range, either way"
    )
    saturation: tuple[float, float] = Field(
        (1.0, 1.0), description="range of the factor of each pixel's colour about its own grey"
    )
    light: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="each channel is multiplied by a factor of up to 1 +- this: light of another colour",
    )
    blur: float = Field(
        0.0, ge=0, le=16, description="largest standard deviation, in pixels of the crop, of a Gaussian blur"
    )

    @field_validator("scale", "contrast", "saturation")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        low, high = value
        if not 0 < low <= high:
            raise ValueError(f"a range must be [low, high] with 0 < low <= high, found [{low}, {high}]")
        return value
