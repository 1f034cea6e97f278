"""`clip`: which CLIP model, of `foodseg zero-shot` and of the endpoint."""

from typing import Annotated

from pydantic import Field

from foodseg.config.marks import Uri
from foodseg.config.section import Section


class ClipConfig(Section):
    """A CLIP model of open_clip."""

    model: Annotated[str, Uri(or_name=True)] = Field(
        "ViT-B-16", description="open_clip's name of the architecture, or a folder or URI with open_clip_config.json"
    )
    weights: Annotated[str | None, Uri(or_name=True)] = Field(
        None, description="a published tag, a file or s3://; null = the weights in the folder of `model`"
    )
    quick_gelu: bool | None = Field(
        None,
        description="the towers compute with QuickGELU, as OpenAI's do; null = as the published tag or the folder "
        "says; must be set for a file of weights if open_clip has the model with both kinds of GELU",
    )
    cache_names: int = Field(4096, ge=1, description="text embeddings that are kept for the next names")
