"""`model.diffusion`: how a Stable Diffusion UNet becomes a backbone."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from foodseg.config.marks import MayChangeOnResume
from foodseg.config.section import Section

LORA_RANK = 16


class DiffusionConfig(Section):
    """One pass through the UNet at one timestep, without noise, with the names as its text (VPD, Zhao et al., 2023)."""

    scale_latents: bool = Field(
        False,
        description="multiply the latents by the VAE's scaling factor (0.18215), which the UNet was trained with; "
        "VPD does not, TADP does",
    )
    timestep: int = Field(1, ge=0, le=999, description="what the UNet is told of the noise, of which there is none")
    learn_timestep: bool = Field(
        False, description="learn the numbers that encode the timestep, from those of `timestep` on"
    )
    maps: bool = Field(
        True,
        description="with model.fusion = cross_attention, give the decoder the attention of each place to each name "
        "too, at strides 16 and 32",
    )
    unet: Literal["full", "frozen", "lora"] = Field(
        "full", description="train the whole UNet, nothing of it, or low-rank changes of its attention (LoRA)"
    )
    lora_rank: int = Field(LORA_RANK, ge=1, description="unet = lora: rank of the changes; they start at 0")
    gradient_checkpointing: Annotated[bool, MayChangeOnResume()] = Field(
        False, description="keep fewer activations and compute them again in the backward pass: less memory, more time"
    )

    @model_validator(mode="after")
    def _rank_of_something(self) -> "DiffusionConfig":
        if self.unet != "lora" and self.lora_rank != LORA_RANK:
            raise ValueError(
                f"model.diffusion.lora_rank = {self.lora_rank} has no effect with unet = {self.unet}: set unet to lora"
            )
        return self
