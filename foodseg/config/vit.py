"""`model.vit`: how a plain ViT (vision transformer) is trained, and a ViT beside a convolutional backbone."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from foodseg.config.marks import Uri
from foodseg.config.section import Section

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _positive(value: tuple[float, float, float]) -> tuple[float, float, float]:
    if min(value) <= 0:
        raise ValueError(f"every deviation must be above 0, found {list(value)}")
    return value


Deviations = Annotated[tuple[float, float, float], AfterValidator(_positive)]
"""Standard deviations of the three channels, all above 0."""


class ViTConfig(Section):
    """For a plain ViT, whether it is `model.backbone` or stands beside it as `model.vit.backbone` (hybrid)."""

    trained: Literal["frozen", "last", "full"] = Field(
        "frozen", description="what of the ViT is trained: nothing, its last blocks and final norm, or all of it"
    )
    last_blocks: int = Field(4, ge=1, description="trained = last: how many blocks at the end are trained")
    lr_factor: float = Field(
        1.0,
        gt=0,
        description="trained = last or full: learning rate of the last block as a factor of optim.lr x "
        "optim.backbone_lr_factor, which is that of a convolutional backbone",
    )
    layer_decay: float = Field(
        0.75,
        gt=0,
        le=1,
        description="trained = last or full: block l of n has layer_decay^(n - l) of the rate of the last one; l = 0 "
        "for the embeddings (layer-wise learning-rate decay of BEiT)",
    )
    backbone: str | None = Field(
        None,
        description="hybrid: a plain ViT of timm whose tokens are concatenated to the levels of the convolutional "
        "model.backbone at strides 16 and 32; null = none",
    )
    weights: Annotated[str, Uri(names=("timm", "none"))] = Field(
        "timm",
        description="hybrid: weights of model.vit.backbone: timm = from timm's hub, none = random, else a .safetensors "
        "file or s3:// URI",
    )
    mean: tuple[float, float, float] = Field(
        IMAGENET_MEAN, description="hybrid: channel means that model.vit.backbone was trained with"
    )
    std: Deviations = Field(
        IMAGENET_STD, description="hybrid: channel deviations that model.vit.backbone was trained with"
    )

    @model_validator(mode="after")
    def _has_an_effect(self) -> "ViTConfig":
        plain = ViTConfig.model_construct()
        if self.backbone is None:
            for key in ("weights", "mean", "std"):
                if getattr(self, key) != getattr(plain, key):
                    raise ValueError(
                        f"model.vit.{key} is that of model.vit.backbone, which is null: set model.{key} for a ViT that "
                        "is model.backbone"
                    )
        if self.trained != "last" and self.last_blocks != plain.last_blocks:
            raise ValueError(
                f"model.vit.last_blocks is used by model.vit.trained = last alone, found {self.trained}: leave it out"
            )
        for key in ("lr_factor", "layer_decay"):
            if self.trained == "frozen" and getattr(self, key) != getattr(plain, key):
                raise ValueError(
                    f"model.vit.{key} is used by model.vit.trained = last and full, found frozen: leave it out"
                )
        return self
