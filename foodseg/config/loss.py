"""`loss`: what is minimised, each term with its weight."""

from typing import Annotated

from pydantic import Field, model_validator

from foodseg.config.marks import NeedsSoftLabels, NeedsTeacher, keys_with
from foodseg.config.section import Section


class LossConfig(Section):
    """Weights of the loss terms; a term with weight 0 is not computed."""

    cross_entropy: float = Field(1.0, ge=0, description="weight of the cross entropy over labelled pixels")
    dice: float = Field(0.0, ge=0, description="weight of the Dice loss over the classes present in each crop")
    lovasz: float = Field(
        0.0,
        ge=0,
        description="weight of the Lovasz-Softmax loss (a convex form of 1 - IoU) over the classes present in each "
        "crop, at the stride of the logits",
    )
    score_map: float = Field(
        0.0, ge=0, description="weight of the cross entropy of the pixel-text scores of model.fusion = score_map"
    )
    pixel_text: float = Field(
        0.0,
        ge=0,
        description="model.kind = realtime with text: weight of the cross entropy of the cosines of pixel embeddings "
        "and class embeddings at temperature 0.07, which are its logits; loss.cross_entropy is then of a linear "
        "classifier that only training has",
    )
    image_text: float = Field(
        0.0,
        ge=0,
        description="model.kind = realtime with text: weight of the cross entropy of the mean cosines of an image, "
        "with the classes on it",
    )
    ingredients: float = Field(
        0.0, ge=0, description="weight of the cross entropy of the ingredient head, per image and class"
    )
    distill: Annotated[float, NeedsTeacher()] = Field(
        0.0, ge=0, description="weight of the divergence from the teacher's soft targets, unlabelled pixels included"
    )
    features: Annotated[float, NeedsTeacher()] = Field(
        0.0, ge=0, description="weight of 1 - cosine between features of student and teacher"
    )
    stages: Annotated[float, NeedsTeacher()] = Field(
        0.0, ge=0, description="weight of 1 - cosine between decoder stages of student and teacher (distill.stages)"
    )
    deeper: Annotated[float, NeedsTeacher()] = Field(
        0.0,
        ge=0,
        description="weight of 1 - cosine between each of these stages and the teacher's next deeper one (twice its "
        "stride), so that shallow stages learn from deeper ones",
    )
    attention: Annotated[float, NeedsTeacher()] = Field(
        0.0,
        ge=0,
        description="weight of the divergence from the teacher's cross-attention maps; needs model.kind = diffusion "
        "with model.diffusion.maps",
    )

    soft_labels: Annotated[float, NeedsSoftLabels()] = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the cross entropy that is taken with the soft labels of distill.teacher, in pixels where "
        "its best class is the label, or which have no label and a confident teacher",
    )
    pixel_correlation: Annotated[float, NeedsSoftLabels()] = Field(
        0.0,
        ge=0,
        description="weight of 1 - the correlation over classes of the student's probabilities and soft labels (DIST)",
    )
    class_correlation: Annotated[float, NeedsSoftLabels()] = Field(
        0.0, ge=0, description="the same over the cells of an image, for each class present in it (DIST)"
    )

    pseudo_labels: Annotated[float, NeedsTeacher()] = Field(
        0.0,
        ge=0,
        description="weight of the cross entropy of images without mask with the labels that the averaged weights give "
        "them where they are confident; the student sees other colours, and a box of the image moved",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="share of the cross entropy that is taken with all classes alike"
    )
    stage_labels: float = Field(
        0.0, ge=0, description="weight of the cross entropy of each coarser stage of the decoder (model.stage_heads)"
    )
    stage_distill: float = Field(
        0.0, ge=0, description="weight of the divergence of each coarser stage from the logits, at temperature 3"
    )
    privileged: float = Field(
        0.0, ge=0, description="weight of the cross entropy of the logits that know the classes (model.privileged_head)"
    )
    privileged_distill: float = Field(
        0.0,
        ge=0,
        description="weight of the divergence from these logits, among the classes on the image; it rises from 20 % to "
        "50 % of the updates",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> "LossConfig":
        if self.cross_entropy == self.dice == self.lovasz == 0:
            raise ValueError(
                "loss.cross_entropy, loss.dice and loss.lovasz are 0: nothing would be learned from masks; "
                "set loss.cross_entropy above 0"
            )
        return self

    @property
    def needs_teacher(self) -> bool:
        """Whether a term compares with the averaged weights."""
        return any(getattr(self, key) > 0 for key in keys_with(LossConfig, NeedsTeacher))

    @property
    def needs_soft_labels(self) -> bool:
        """Whether a term compares with the soft labels of `distill.teacher`."""
        return any(getattr(self, key) > 0 for key in keys_with(LossConfig, NeedsSoftLabels))
