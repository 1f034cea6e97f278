"""A timm backbone as a feature pyramid."""

from typing import Any

import timm
import torch
from torch import nn

from foodseg.errors import UserError
from foodseg.models.backbones.depthwise import compute_in_float32
from foodseg.models.backbones.timm_weights import require_timm_model, with_weights


class Pyramid(nn.Module):
    """Any timm model with `features_only`, cut to the levels at the wanted strides.

    Attributes:
        channels: channels of each level, in the order of `strides`.
        strides: pixels of the image per feature, increasing.
        size_multiple: sides of an image should be multiples of this many pixels.
    """

    def __init__(self, name: str, strides: tuple[int, ...], weights: str | None = None) -> None:
        """Builds it; `weights` is None (random), "timm" (timm's hub) or a file or URI of timm's own state dict.

        Raises:
            UserError: unknown model, no such stride, weights that do not fit.
        """
        super().__init__()
        self.strides, self.size_multiple = strides, strides[-1]
        self.backbone = _create(name, strides, weights)
        compute_in_float32(self.backbone)
        info: Any = self.backbone.feature_info
        self.channels = [int(c) for c in info.channels()]
        # some families (Swin, MambaOut) put the channels last
        self._channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) normalised -> a list of (B, C_i, H / stride_i, W / stride_i)."""
        levels = self.backbone(image)
        return [level.permute(0, 3, 1, 2) for level in levels] if self._channels_last else levels


def _create(name: str, strides: tuple[int, ...], weights: str | None) -> nn.Module:
    require_timm_model(name)
    try:
        info: Any = _timm(name).feature_info
        reductions = [int(r) for r in info.reduction()]
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise UserError(f"model.backbone: {name!r} does not give a feature pyramid (features_only): {error}") from None
    absent = [stride for stride in strides if stride not in reductions]
    if absent:
        raise UserError(f"model.strides: {name!r} has features at strides {reductions}, not at {absent}")
    indices = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides)
    return with_weights(name, weights, lambda **settings: _cut(_timm(name, out_indices=indices, **settings)))


def _timm(name: str, **settings: Any) -> nn.Module:
    """Builds a feature pyramid; families made for one size of images (Swin) are asked to take any."""
    try:
        return timm.create_model(name, features_only=True, strict_img_size=False, **settings)
    except TypeError:  # the others know no such setting
        return timm.create_model(name, features_only=True, **settings)


def _cut(model: nn.Module) -> nn.Module:
    """Drops the stages behind the last level, which timm keeps for EfficientNets: DDP refuses unused parameters."""
    stages = getattr(model, "_stage_out_idx", None)  # {stage: index of its level}
    if stages and isinstance(model.blocks, nn.Sequential):
        model.blocks = model.blocks[: max(stages)]
    return model
