"""A timm backbone as a feature pyramid."""

import tempfile
from pathlib import Path

import timm
import torch
from torch import nn

from foodseg import storage
from foodseg.errors import UserError


class Pyramid(nn.Module):
    """Any timm model with `features_only`, cut to the levels at the wanted strides.

    Attributes:
        channels: channels of each level, in the order of `strides`.
        strides: pixels of the picture per feature, increasing.
    """

    def __init__(self, name: str, strides: tuple[int, ...], weights: str | None = None) -> None:
        """Builds it; `weights` is None (random), "timm" (timm's hub) or a file or URI of timm's own state dict.

        Raises:
            UserError: unknown model, no such stride, weights that do not fit.
        """
        super().__init__()
        self.strides = strides
        self.backbone = _create(name, strides, weights)
        self.channels = [int(c) for c in self.backbone.feature_info.channels()]

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) normalised -> a list of (B, C_i, H / stride_i, W / stride_i)."""
        return self.backbone(image)


def _create(name: str, strides: tuple[int, ...], weights: str | None) -> nn.Module:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:12]}*")[:3]
        hint = f"; near names: {', '.join(near)}" if near else "; `timm.list_models()` lists them"
        raise UserError(f"model.backbone: timm has no model {name!r}{hint}")
    try:
        probe = timm.create_model(name, features_only=True)
        reductions = [int(r) for r in probe.feature_info.reduction()]
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise UserError(f"model.backbone: {name!r} does not give a feature pyramid (features_only): {error}") from None
    absent = [stride for stride in strides if stride not in reductions]
    if absent:
        raise UserError(f"model.strides: {name!r} has features at strides {reductions}, not at {absent}")
    indices = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides)
    if weights is None or weights == "timm":
        try:
            return timm.create_model(name, features_only=True, out_indices=indices, pretrained=weights == "timm")
        except Exception as error:  # the hub client raises what its network stack raises
            if weights is None:
                raise
            raise UserError(
                f"model.weights: timm's hub did not give weights for {name!r} ({type(error).__name__}): "
                "download them once and name the .safetensors file or its URI"
            ) from None
    return _with_file(name, indices, weights)


def _with_file(name: str, indices: tuple[int, ...], weights: str) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "weights.safetensors"
        local.write_bytes(storage.read_bytes(weights))
        try:
            # timm's own loader knows each family's names, so that the file is the one that timm publishes
            return timm.create_model(
                name, features_only=True, out_indices=indices, pretrained=True, pretrained_cfg_overlay={"file": str(local)}
            )
        except Exception as error:  # safetensors and timm raise a dozen kinds for one cause
            detail = str(error).split("\n")[0][:160]
            raise UserError(
                f"model.weights: {storage.redact(weights)} does not hold timm weights of {name!r} in safetensors format ({detail})"
            ) from None
