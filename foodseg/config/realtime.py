"""`model.realtime`: the size of the real-time segmenter, and context tokens learned in front of class names."""

from typing import Any, Literal

from pydantic import Field, model_validator

from foodseg.config.section import Section

Size = Literal["S", "M"]
SIZES: dict[str, dict[str, Any]] = {
    "S": {"strides": (8, 16), "decoder_channels": 64},
    "M": {"strides": (8, 16, 32), "decoder_channels": 128},
}
"""By size the defaults of other keys of `model`: how much of the backbone is used, and the width of the decoder."""


class RealtimeConfig(Section):
    """The size, and what is learned in stage two (`optim.stage_two`): prompts, after CoOp (Zhou et al., 2022)."""

    size: Size = Field(
        "M",
        description="S = the backbone up to stride 16 and 64 channels in the decoder, M = up to stride 32 and 128: "
        "model.strides and model.decoder_channels where they are not given",
    )
    context_tokens: int = Field(
        0,
        ge=0,
        le=32,
        description="learned context tokens in front of each class name, from optim.stage_two.begins on (CoOp has 4 or "
        "16); 0 = none: the class embeddings stay as they are",
    )
    context: Literal["generic", "per_class"] = Field(
        "generic", description="the same context tokens for all class names, or own ones for each"
    )
    context_phrase: str | None = Field(
        "a photo of a",
        min_length=1,
        description="words that the context tokens begin as, the last of them where they are more; null = random "
        "numbers of deviation 0.02",
    )

    @model_validator(mode="after")
    def _context_is_used(self) -> "RealtimeConfig":
        fields, own = RealtimeConfig.model_fields, ("context", "context_phrase")
        if self.context_tokens == 0 and any(getattr(self, key) != fields[key].default for key in own):
            raise ValueError(
                "model.realtime.context and context_phrase say how the context tokens begin, and "
                "model.realtime.context_tokens is 0: set it to 4 or 16, or leave them out"
            )
        return self
