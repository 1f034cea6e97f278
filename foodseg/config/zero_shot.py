"""The configuration of `foodseg zero-shot`: which CLIP, how its patches are compared with names, how images are shown.

config = parse_zero_shot_config("clip.yaml", ["clip.model=ViT-L-14", "dense.attention=naclip"])
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from foodseg.config.clip import ClipConfig
from foodseg.config.evaluation import EvalConfig
from foodseg.config.explain import validated
from foodseg.config.load import read_tree, with_values
from foodseg.config.marks import Uri
from foodseg.config.section import Section
from foodseg.config.text import one_slot_for_the_name


class DenseConfig(Section):
    """How patches are compared with names (`models/clip/dense.py`)."""

    attention: Literal["maskclip", "sclip", "clearclip", "naclip", "proxy"] = Field(
        "clearclip",
        description="what takes the place of the attention of CLIP's last block; proxy needs dense.external",
    )
    external: str | None = Field(
        None,
        description="attention proxy: timm's name of the plain ViT whose features say which patches are alike, as "
        "vit_small_patch14_dinov2; or sam, the image encoder of `--sam`",
    )
    external_weights: Annotated[str | None, Uri()] = Field(
        None, description="file or URI of the ViT's weights; null = the published ones from timm's hub"
    )
    prompts: tuple[str, ...] = Field(
        ("a photo of {}.", "a photo of {}, a type of food.", "a close-up photo of {}.", "a plate with {}."),
        min_length=1,
        description="sentences with {} for the name; the embeddings of all are averaged",
    )
    background: tuple[str, ...] = Field(
        ("plate", "bowl", "table", "tablecloth", "napkin", "cutlery", "glass", "hand", "background"),
        description="names of what is none of the names that are looked for: background is where one of these fits "
        "best; empty = no such names",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="background is also where the best of the names has a lower softmax probability among them; "
        "null = nowhere",
    )
    scale: float = Field(40.0, gt=0, description="of the cosines, before softmax")

    @field_validator("prompts")
    @classmethod
    def _one_slot_for_the_name(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return one_slot_for_the_name(value)

    @model_validator(mode="after")
    def _external_of_proxy(self) -> "DenseConfig":
        if (self.external is None) == (self.attention == "proxy"):
            raise ValueError(
                f"dense.external must name an encoder for attention proxy and for no other, found "
                f"{self.external!r} with {self.attention}"
            )
        if self.external_weights is not None and self.external in (None, "sam"):
            raise ValueError("dense.external_weights needs the name of a ViT in dense.external")
        return self


class ZeroShotEvalConfig(EvalConfig):
    """How images are shown to CLIP: in windows of the size that it was trained at, as the published figures are made.

    A photograph of 4 : 3 has its shorter side at 336 pixels.
    """

    longest_side: int | None = Field(448, ge=8, le=16384, description="pixels of the longer side")
    window: int | None = Field(224, ge=32, description="side of a sliding window in pixels; null = the whole image")

    @model_validator(mode="after")
    def _nothing_was_trained(self) -> "ZeroShotEvalConfig":
        plain = EvalConfig()
        for key in ("ingredients", "restrict", "logit_adjustment"):
            if getattr(self, key) != getattr(plain, key):
                raise ValueError(
                    f"eval.{key} must be {getattr(plain, key)}, found {getattr(self, key)}: the names that are given "
                    "are the vocabulary, and nothing was trained"
                )
        return self


class ZeroShotConfig(Section):
    """All settings of a zero-shot segmenter but the names."""

    clip: ClipConfig = Field(ClipConfig(weights="openai"), description="the CLIP model")
    dense: DenseConfig = Field(DenseConfig(), description="how patches are compared with names")
    eval: ZeroShotEvalConfig = Field(ZeroShotEvalConfig(), description="how images are shown to CLIP")


def parse_zero_shot_config(path: str | None = None, overrides: Sequence[str] = ()) -> ZeroShotConfig:
    """Reads a YAML file, and what `--set` says instead of it.

    Raises:
        UserError: no such file, an unknown key, a value out of range.
    """
    tree = {} if path is None else read_tree(path)
    return validated(with_values(tree, overrides), ZeroShotConfig, "" if path is None else path)
