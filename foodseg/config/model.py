"""`model`: backbone, text fusion and decoder of the segmenter."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from foodseg.config.diffusion import DiffusionConfig
from foodseg.config.marks import Uri
from foodseg.config.realtime import SIZES, RealtimeConfig
from foodseg.config.section import Section
from foodseg.config.text import TextConfig
from foodseg.config.vit import IMAGENET_MEAN, IMAGENET_STD, Deviations, ViTConfig

DIFFUSION_BACKBONES = ("sd1", "sd2", "tiny")
DIFFUSION_STRIDES = (8, 16, 32, 64)
_USED_WITHOUT_DECODER = {
    "open_vocabulary": ("kind", "backbone", "weights", "mean", "std", "text", "vit", "diffusion"),
    "roi": ("kind", "backbone", "weights", "dropout"),
}
_USED_BY_REALTIME = (
    "kind", "backbone", "weights", "mean", "std", "text", "strides", "decoder_channels", "dropout", "realtime",
)  # fmt: skip


class ModelConfig(Section):
    """A backbone, the fusion of class embeddings with its features, and an FPN decoder."""

    kind: Literal["timm", "diffusion", "open_vocabulary", "roi", "realtime"] = Field(
        "timm",
        description="where the features come from: a timm model, or the UNet of Stable Diffusion; open_vocabulary = no "
        "decoder: tokens of a frozen plain ViT are compared with what a class name should look like, so that other "
        "names can be given later; roi = one or two encoders that classify regions, not pixels, as `roi` says; "
        "realtime = a mobile timm model with a light decoder, whose pixel embeddings are compared with class "
        "embeddings (model.text)",
    )
    backbone: str = Field(
        "tf_efficientnet_lite0",
        description="kind timm: any timm model that supports features_only, and any plain ViT; kind diffusion: sd1 "
        "(Stable Diffusion 1.x), sd2 (2.x) or tiny (the same classes with 5 million parameters, for tests)",
    )
    weights: Annotated[str, Uri(names=("timm", "none"), schemes=("hf://",))] = Field(
        "timm",
        description="backbone weights: none = random; kind timm: timm = from timm's hub, downloaded once, "
        "else a .safetensors file or s3:// URI; kind diffusion (where none is the default): a folder or s3:// URI in "
        "the layout of diffusers (unet/ and vae/), or hf://owner/name",
    )
    mean: tuple[float, float, float] = Field(
        (0.5, 0.5, 0.5), description="channel means that the backbone was trained with"
    )
    std: Deviations = Field((0.5, 0.5, 0.5), description="channel deviations that the backbone was trained with")
    strides: tuple[int, ...] = Field(
        (4, 8, 16, 32),
        min_length=1,
        description="strides of the backbone levels that the decoder fuses; a plain ViT: of 4, 8, 16, 32; kind "
        "diffusion: of 8, 16, 32, 64 (all)",
    )
    pyramid_channels: int = Field(256, ge=8, description="channels of the feature pyramid, and of a plain ViT's levels")
    decoder_channels: int = Field(128, ge=8, multiple_of=8, description="channels in front of the classifier")
    dropout: float = Field(0.2, ge=0, lt=1, description="channel dropout in front of the classifier")
    classifier: Literal["linear", "cosine", "text_prior"] = Field(
        "linear",
        description="linear; cosine = learned scale x cosine with a direction of each class; text_prior = the same, "
        "where the embedding of a class gives its direction, the less the more training images it has",
    )
    fusion: Literal["none", "score_map", "cross_attention", "film"] = Field(
        "none",
        description="how class embeddings are fused with the features: none = not at all, score_map = by their cosines "
        "with every grid cell, cross_attention = by attention from every grid cell to the classes, film = by one scale "
        "and shift of every channel; kind diffusion: none or cross_attention, the UNet's own",
    )
    conditioning_penalty: bool = Field(
        True, description="with fusion: the logits of classes outside the conditioning are lowered by a learned amount"
    )
    fusion_stride: int | None = Field(
        None, description="stride of the level that score_map and cross_attention act on; null = the coarsest"
    )
    ingredient_head: bool = Field(
        False, description="also predict which ingredients are on the image: for eval.ingredients=predicted and film"
    )
    stage_heads: bool = Field(
        False, description="classifiers on the decoder's coarser stages, for loss.stage_labels; only training has them"
    )
    privileged_head: bool = Field(
        False,
        description="a second set of logits in training, of features that the embeddings of the classes on the image "
        "scale and shift, for loss.privileged",
    )
    text: TextConfig = Field(TextConfig(), description="class embeddings")
    vit: ViTConfig = Field(
        ViTConfig(), description="kind timm: how a plain ViT is trained; a plain ViT beside a convolutional backbone"
    )
    diffusion: DiffusionConfig = Field(DiffusionConfig(), description="kind diffusion: the UNet as a backbone")
    realtime: RealtimeConfig = Field(RealtimeConfig(), description="kind realtime: size, learned prompts")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and tree.get("kind") == "diffusion":
            return {"strides": DIFFUSION_STRIDES, "weights": "none", **tree}
        if isinstance(tree, dict) and tree.get("kind") == "open_vocabulary":
            return {"backbone": "vit_small_patch14_dinov2", "mean": IMAGENET_MEAN, "std": IMAGENET_STD, **tree}
        if isinstance(tree, dict) and tree.get("kind") == "realtime":
            realtime = tree.get("realtime")
            size = realtime.get("size", "M") if isinstance(realtime, dict) else getattr(realtime, "size", "M")
            return {**SIZES.get(str(size), {}), **tree}
        return tree

    @field_validator("weights", mode="before")
    @classmethod
    def _null_is_none(cls, value: Any) -> Any:
        return "none" if value in (None, "null") else value

    @property
    def encoders(self) -> str:
        """Returns the names of the backbone and of the ViT beside it, for reports."""
        return self.backbone if self.vit.backbone is None else f"{self.backbone} + {self.vit.backbone}"

    @property
    def has_maps(self) -> bool:
        """Whether the decoder is given the cross-attention maps: the attention of each grid cell to each class."""
        shown = self.kind == "diffusion" and self.fusion == "cross_attention" and self.diffusion.maps
        return shown and not {16, 32}.isdisjoint(self.strides)

    @field_validator("strides")
    @classmethod
    def _doubling(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(b != 2 * a for a, b in pairwise(value)):
            raise ValueError(f"each stride must be twice the one before, found {list(value)}")
        return value

    @model_validator(mode="after")
    def _fusion_has_what_it_needs(self) -> "ModelConfig":
        open_vocabulary = self.kind == "open_vocabulary"
        uses_text = open_vocabulary or self.fusion != "none" or self.privileged_head or self.classifier == "text_prior"
        if self.kind == "realtime":
            return self  # text is its choice
        if uses_text != (self.text.kind != "none"):
            if not uses_text:
                raise ValueError("model.text is used by model.fusion alone, which is none: set both or neither")
            user = f"model.fusion = {self.fusion}" if self.fusion != "none" else "model.privileged_head"
            if open_vocabulary:
                user = "model.kind = open_vocabulary"
            elif self.fusion == "none" and not self.privileged_head:
                user = f"model.classifier = {self.classifier}"
            raise ValueError(f"{user} needs model.text.kind: table or open_clip")
        if self.privileged_head and self.fusion != "none":
            raise ValueError(
                f"model.privileged_head is for an image-only model, and model.fusion is {self.fusion}: set one of them"
            )
        if self.fusion == "film" and not self.ingredient_head:
            raise ValueError(
                "model.fusion = film needs model.ingredient_head: true, whose prediction it uses where no conditioning "
                "classes are provided"
            )
        if self.fusion_stride is not None:
            if self.fusion not in ("score_map", "cross_attention"):
                raise ValueError(f"model.fusion_stride is not used by model.fusion = {self.fusion}: leave it null")
            if self.fusion_stride not in self.strides:
                raise ValueError(
                    f"model.fusion_stride must be one of model.strides {list(self.strides)}, found {self.fusion_stride}"
                )
        return self

    @model_validator(mode="after")
    def _vit(self) -> "ModelConfig":
        if self.kind == "diffusion" and self.vit != ViTConfig():
            raise ValueError("model.vit is used by model.kind = timm alone: leave it out")
        if self.kind == "open_vocabulary" and self.vit.backbone is not None:
            raise ValueError("model.vit.backbone is used by model.kind = timm alone: the ViT is model.backbone")
        if self.vit.backbone is not None and {16, 32}.isdisjoint(self.strides):
            raise ValueError(
                "model.vit.backbone has its tokens at strides 16 and 32, and neither is among model.strides "
                f"{list(self.strides)}: add one, or leave model.vit.backbone null"
            )
        return self

    def _require_defaults(self, used: Sequence[str], why: str) -> None:
        for key, field in ModelConfig.model_fields.items():
            if key not in used and getattr(self, key) != field.default:
                raise ValueError(f"model.{key} is not used by model.kind = {self.kind}, {why}: leave it out")

    @model_validator(mode="after")
    def _realtime(self) -> "ModelConfig":
        if self.kind != "realtime":
            if self.realtime != RealtimeConfig():
                raise ValueError("model.realtime is used by model.kind = realtime alone: leave it out")
            return self
        self._require_defaults(_USED_BY_REALTIME, "which has a decoder and a classifier of its own")
        if len(self.strides) < 2:
            raise ValueError(
                "model.strides must be two or more with model.kind = realtime, details at the first and what is around "
                f"them at the last, found {list(self.strides)}"
            )
        if self.text.gamma != TextConfig().gamma:
            raise ValueError("model.text.gamma is not used by model.kind = realtime: leave it out")
        if self.realtime.context_tokens and self.text.kind == "none":
            raise ValueError(
                "model.realtime.context_tokens are tokens of a text tower, and model.text.kind is none: set it to "
                "open_clip, or to table with one that `foodseg data embed` made"
            )
        return self

    @model_validator(mode="after")
    def _without_decoder(self) -> "ModelConfig":
        if self.kind not in _USED_WITHOUT_DECODER:
            return self
        self._require_defaults(_USED_WITHOUT_DECODER[self.kind], "which has no decoder")
        if self.kind == "open_vocabulary" and self.vit.trained != "frozen":
            raise ValueError(
                "model.vit.trained must be frozen with model.kind = open_vocabulary, which trains nothing by gradients"
            )
        return self

    @model_validator(mode="after")
    def _diffusion(self) -> "ModelConfig":
        if self.kind != "diffusion":
            if self.diffusion != DiffusionConfig():
                raise ValueError("model.diffusion is used by model.kind = diffusion alone: leave it out")
            return self
        wrong = {
            "backbone": (self.backbone, self.backbone in DIFFUSION_BACKBONES, "sd1, sd2 or tiny"),
            "weights": (self.weights, self.weights != "timm", "none, a folder, an s3:// URI or hf://owner/name"),
            "strides": (
                list(self.strides),
                set(self.strides) <= set(DIFFUSION_STRIDES) and self.strides[0] < DIFFUSION_STRIDES[-1],
                "neighbours among 8, 16, 32 and 64, and not 64 alone,",
            ),
            "fusion": (self.fusion, self.fusion in ("none", "cross_attention"), "none or cross_attention"),
            "fusion_stride": (self.fusion_stride, self.fusion_stride is None, "null: all layers attend to the classes"),
            "mean": (list(self.mean), set(self.mean) == {0.5}, "0.5 each, since the VAE takes numbers in [-1, 1]"),
            "std": (list(self.std), set(self.std) == {0.5}, "0.5 each, since the VAE takes numbers in [-1, 1]"),
        }
        for key, (found, right, wanted) in wrong.items():
            if not right:
                raise ValueError(f"model.{key} must be {wanted} with model.kind = diffusion, found {found!r}")
        if self.text.kind == "open_clip" and self.text.centre:
            raise ValueError(
                "model.text.centre must be false with model.kind = diffusion and model.text.kind = open_clip: the UNet "
                "was trained with CLIP's embeddings as they are"
            )
        return self
