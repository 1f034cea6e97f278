"""MobileSAM (Zhang et al., 2023): segment-anything with TinyViT-5M (Wu et al., 2022) as its image encoder.

    sam = build_mobile_sam()
    sam.load_state_dict(timm_state(state))      # `state` under the names of the public mobile_sam.pt

The encoder is timm's, with the changes that MobileSAM made: its last stage stays at stride 16, and a neck of two
convolutions takes the place of the classifier. Prompt encoder and mask decoder are segment-anything's own.
"""

import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import nn

SIDE = 1024  # pixels of the square that the encoder sees
STRIDE = 16
WIDTH = 256  # channels of an embedding


class TinyEncoder(nn.Module):
    """TinyViT-5M without its classifier, and a neck.

    Attributes:
        img_size: pixels of the square image; segment-anything reads it from any encoder.
    """

    img_size = SIDE

    def __init__(self) -> None:
        super().__init__()
        tiny: Any = timm.create_model("tiny_vit_5m_224", num_classes=0)
        # the window sizes of its attention are those of timm's model: 7, 7, 14, 7
        tiny.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.patch_embed = tiny.patch_embed
        self.stages = tiny.stages
        self.neck = nn.Sequential(
            nn.Conv2d(tiny.num_features, WIDTH, kernel_size=1, bias=False),
            LayerNorm2d(WIDTH),
            nn.Conv2d(WIDTH, WIDTH, kernel_size=3, padding=1, bias=False),
            LayerNorm2d(WIDTH),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) normalised, H and W multiples of 16 -> (B, 256, H / 16, W / 16)."""
        features: torch.Tensor = self.neck(self.stages(self.patch_embed(image)))
        return features


def build_mobile_sam() -> Sam:
    """Returns MobileSAM with random weights; the numbers are those of segment-anything's own builder."""
    grid = (SIDE // STRIDE, SIDE // STRIDE)
    return Sam(
        # a fifth faster on a CPU than with the channels first
        image_encoder=TinyEncoder().to(memory_format=torch.channels_last),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH, image_embedding_size=grid, input_image_size=(SIDE, SIDE), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=2048, num_heads=8),
            transformer_dim=WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )


def timm_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns a MobileSAM state dict under the names of `build_mobile_sam`, without the ImageNet classifier."""
    dropped = ("image_encoder.head.", "image_encoder.norm_head.")
    return {_timm_name(name): tensor for name, tensor in state.items() if not name.startswith(dropped)}


def _timm_name(name: str) -> str:
    encoder = name.removeprefix("image_encoder.")
    if encoder == name:
        return name
    encoder = re.sub(r"^patch_embed\.seq\.([02])\.", lambda m: f"patch_embed.conv{int(m[1]) // 2 + 1}.", encoder)
    # MobileSAM shrinks at the end of a stage, timm at the beginning of the next one
    encoder = re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.", encoder)
    encoder = re.sub(r"^layers\.", "stages.", encoder)
    return "image_encoder." + re.sub(r"\.c\.", ".conv.", encoder)
