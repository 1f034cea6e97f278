"""`roi`: the regions of an image and how they are classified, for `model.kind: roi`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from foodseg.config.marks import Uri
from foodseg.config.section import Section

Views = Literal["crop", "roi", "roi_roi", "roi_context", "roi_other_context"]
"""What a classifier is shown of a region."""


class RoiConfig(Section):
    """A region of interest (ROI) and what is around it, extra-ROI or context (RveRNet, Jin, 2024).

    Encoders are `model.backbone` and, for the second view, `context_backbone`; each is given images as timm says that
    it was trained on.
    """

    views: Views = Field(
        "roi_context",
        description="what is shown: crop = the box of the region; roi = the same with all else black; roi_context = "
        "roi, and the whole image with the region black; for comparison: roi_roi = roi twice, as many parameters as "
        "roi_context; roi_other_context = the context of another image of the same source and batch",
    )
    regions: Literal["truth", "sam"] = Field(
        "truth",
        description="which regions are learned from and validated on: truth = connected parts of the masks; sam = the "
        "masks that `foodseg data masks` keeps beside the data set, each with the class of most of its pixels",
    )
    least_share: float = Field(
        0.001, ge=0, lt=1, description="regions with a smaller share of the image are neither learned nor scored"
    )
    margin: float = Field(
        0.25,
        ge=0,
        le=2,
        description="the box of a region is enlarged by this share of its sides, at each of them; in training by 0 to "
        "twice as much",
    )
    integrate: Literal["features", "logits"] = Field(
        "features",
        description="what of both encoders is concatenated: their features, or, as published, the 1,000 logits of "
        "their ImageNet classifiers",
    )
    hidden: int = Field(640, ge=8, description="width of the hidden layer behind it")
    shared: bool = Field(False, description="one encoder for both views")
    context_backbone: str | None = Field(
        None, description="encoder of the second view, any model of timm; null = another model.backbone"
    )
    context_weights: Annotated[str, Uri(names=("timm", "none"))] = Field(
        "timm", description="weights of roi.context_backbone: timm, none, or a .safetensors file or s3:// URI"
    )
    distill: Literal["none", "hard", "soft"] = Field(
        "none",
        description="how a model.backbone with a distillation token (deit_*_distilled_*) learns from the region "
        "classifier distill.teacher, which sees the same views (DeiT): hard = half the cross entropy of each head, of "
        "the distillation head with the teacher's class; soft = by alpha, at distill.temperature",
    )
    alpha: float = Field(
        0.5, gt=0, lt=1, description="distill = soft: share of the divergence from the teacher in the loss"
    )

    @property
    def view_count(self) -> int:
        """Views of a region: 1 or 2."""
        return 1 if self.views in ("crop", "roi") else 2

    @model_validator(mode="after")
    def _has_an_effect(self) -> "RoiConfig":
        plain = RoiConfig.model_construct()
        if self.view_count == 1:
            for key in ("shared", "context_backbone", "context_weights"):
                if getattr(self, key) != getattr(plain, key):
                    raise ValueError(
                        f"roi.{key} is of the second view, and roi.views = {self.views} has one: leave it out"
                    )
        if self.shared and self.context_backbone is not None:
            raise ValueError("roi.shared = true has one encoder for both views: leave roi.context_backbone null")
        if self.context_backbone is None and self.context_weights != plain.context_weights:
            raise ValueError("roi.context_weights is used with roi.context_backbone alone, which is null: set both")
        if self.distill != "soft" and self.alpha != plain.alpha:
            raise ValueError(f"roi.alpha is used by roi.distill = soft alone, found {self.distill}: leave it out")
        return self
