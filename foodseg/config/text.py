"""`model.text`: where the class embeddings come from."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from foodseg.config.marks import Uri
from foodseg.config.section import Section


def one_slot_for_the_name(prompts: tuple[str, ...]) -> tuple[str, ...]:
    """Returns prompts as they are; raises ValueError for one that has not one {} for the name."""
    wrong = next((prompt for prompt in prompts if prompt.count("{}") != 1), None)
    if wrong is not None:
        raise ValueError(f"each prompt must have one {{}} for the name, found {wrong!r}")
    return prompts


class TextConfig(Section):
    """One text embedding per class, read once at the start of a run; the checkpoint holds them from then on."""

    kind: Literal["none", "open_clip", "table"] = Field(
        "none", description="none, an open_clip text tower (pip install open_clip_torch), or a table of embeddings"
    )
    table: Annotated[str | None, Uri()] = Field(
        None,
        description="kind table: .safetensors file or URI of one embedding a class, made by `foodseg data embed`",
    )
    model: str | None = Field(
        None,
        description="kind open_clip: name of the model, for example ViT-L-14, or a folder or URI with "
        "open_clip_config.json and weights",
    )
    tag: str | None = Field(
        None,
        description="kind open_clip: tag of its published weights, for example openai, or a file or URI of weights, "
        "which may need quick_gelu too; null = those in the folder of `model`",
    )
    quick_gelu: bool | None = Field(
        None,
        description="kind open_clip: the tower computes with QuickGELU, as OpenAI's do; null = as the published tag "
        "says; for a file of weights it must be given where the model is known with both kinds of GELU",
    )
    prompts: tuple[str, ...] = Field(
        ("a photo of {}.", "a photo of {}, a type of food.", "a close-up photo of {}.", "a plate with {}."),
        min_length=1,
        description="kind open_clip: sentences with {} for the name; the embeddings of all are averaged",
    )
    centre: bool = Field(
        True,
        description="subtract the mean of all class embeddings, which are much alike, and scale each to length 1 (for "
        "model.kind = diffusion to the square root of its width); a single one has nothing subtracted",
    )
    gamma: float = Field(1e-4, ge=0, le=1, description="initial weight of the learned change of the embeddings")

    @field_validator("prompts")
    @classmethod
    def _one_slot_for_the_name(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return one_slot_for_the_name(value)

    @model_validator(mode="after")
    def _one_source(self) -> "TextConfig":
        if (self.table is not None) != (self.kind == "table"):
            needs = "is missing: make one with `foodseg data embed`" if self.table is None else "needs kind table"
            raise ValueError(f"model.text.table {needs}")
        if self.kind == "open_clip" and self.model is None:
            raise ValueError("model.text.model is needed for kind open_clip: a name such as ViT-L-14, with its tag")
        if self.kind != "open_clip" and (self.model is not None or self.tag is not None):
            raise ValueError("model.text.model and model.text.tag need kind open_clip")
        if self.quick_gelu is not None and self.kind != "open_clip":
            raise ValueError("model.text.quick_gelu needs kind open_clip")
        return self
