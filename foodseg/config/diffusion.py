"""`model.diffusion`: how a Stable Diffusion UNet becomes a backbone."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from foodseg.config.marks import MayChangeOnResume
from foodseg.config.section import Section

LORA_RANK = 16


class DiffusionConfig(Section):
    """One pass of the UNet at one timestep, without noise, conditioned on class embeddings (VPD, Zhao et al., 2023)."""

    scale_latents: bool = Field(
        False,
        description="multiply the latents by the VAE's scaling factor (0.18215), which the UNet was trained with; "
        "VPD does not, TADP does",
    )
    timestep: int = Field(1, ge=0, le=999, description="timestep that the UNet is conditioned on; no noise is added")
    learn_timestep: bool = Field(
        False, description="learn the embedding of the timestep, starting from that of `timestep`"
    )
    maps: bool = Field(
        True,
        description="with model.fusion = cross_attention, also give the decoder the cross-attention maps (of each grid "
        "cell to each class), at strides 16 and 32",
    )
    unet: Literal["full", "frozen", "lora"] = Field(
        "full", description="train the whole UNet, none of it, or low-rank updates of its attention (LoRA)"
    )
    lora_rank: int = Field(LORA_RANK, ge=1, description="unet = lora: rank of the updates, which start at 0")
    gradient_checkpointing: Annotated[bool, MayChangeOnResume()] = Field(
        False, description="keep fewer activations and recompute them in the backward pass: less memory, more time"
    )

    @model_validator(mode="after")
    def _rank_of_something(self) -> "DiffusionConfig":
        if self.unet != "lora" and self.lora_rank != LORA_RANK:
            raise ValueError(
                f"model.diffusion.lora_rank = {self.lora_rank} has no effect with unet = {self.unet}: set unet to lora"
            )
        return self
