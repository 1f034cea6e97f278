"""A timm backbone as a feature pyramid."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from foodseg import storage
from foodseg.errors import UserError
from foodseg.models.backbones.timm_hub import published_weights


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
        info: Any = self.backbone.feature_info
        self.channels = [int(c) for c in info.channels()]
        # some families (Swin, MambaOut) put the channels last
        self._channels_last = str(getattr(self.backbone, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(B, 3, H, W) normalised -> a list of (B, C_i, H / stride_i, W / stride_i)."""
        levels = self.backbone(image)
        return [level.permute(0, 3, 1, 2) for level in levels] if self._channels_last else levels


def _create(name: str, strides: tuple[int, ...], weights: str | None) -> nn.Module:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0][:12]}*")[:3]
        hint = f"; near names: {', '.join(near)}" if near else "; `timm.list_models()` lists them"
        raise UserError(f"model.backbone: timm has no model {name!r}{hint}")
    try:
        info: Any = _timm(name).feature_info
        reductions = [int(r) for r in info.reduction()]
    except (RuntimeError, AttributeError, TypeError, AssertionError) as error:
        raise UserError(f"model.backbone: {name!r} does not give a feature pyramid (features_only): {error}") from None
    absent = [stride for stride in strides if stride not in reductions]
    if absent:
        raise UserError(f"model.strides: {name!r} has features at strides {reductions}, not at {absent}")
    indices = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides)
    if weights == "timm":
        file = published_weights(name)
        if file is not None:
            return _with_file(name, indices, file)
    if weights is None or weights == "timm":
        try:
            with _quiet_timm():
                model = _timm(name, out_indices=indices, pretrained=weights == "timm")
            return _cut(model)
        except Exception as error:  # the hub client raises what its network stack raises
            if weights is None:
                raise
            raise UserError(
                f"model.weights: timm's hub did not give weights for {name!r} ({type(error).__name__}): "
                "download them once and name the .safetensors file or its URI, or set model.weights=none"
            ) from None
    return _with_file(name, indices, weights)


def _timm(name: str, **settings: Any) -> nn.Module:
    """Builds a feature pyramid; families made for one size of images (Swin) are asked to take any."""
    try:
        return timm.create_model(name, features_only=True, strict_img_size=False, **settings)
    except TypeError:  # the others know no such setting
        return timm.create_model(name, features_only=True, **settings)


def _with_file(name: str, indices: tuple[int, ...], weights: str) -> nn.Module:
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "weights.safetensors"
        local.write_bytes(storage.read_bytes(weights))
        try:
            # timm's own loader knows each family's names, so that the file is the one that timm publishes
            overlay = {"file": str(local)}
            state = torch.get_rng_state()
            with _quiet_timm():
                model = _timm(name, out_indices=indices, pretrained=True, pretrained_cfg_overlay=overlay)
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(state)
                _require_weights(model, _timm(name, out_indices=indices))
            return _cut(model)
        except Exception as error:  # safetensors and timm raise a dozen kinds for one cause
            detail = str(error).split("\n")[0][:160]
            raise UserError(
                f"model.weights: {storage.redact(weights)} does not hold timm weights of {name!r} "
                f"in safetensors format ({detail})"
            ) from None


def _require_weights(model: nn.Module, blank: nn.Module) -> None:
    """timm loads whatever fits and keeps the random rest: a tensor that is still as in `blank` was not in the file."""
    random = dict(blank.named_parameters())
    kept = [name for name, own in model.named_parameters() if own.ndim > 1 and torch.equal(own, random[name])]
    if kept:
        raise KeyError(f"{len(kept)} tensors are not in it, the first is {kept[0]}")


def _cut(model: nn.Module) -> nn.Module:
    """Drops the stages behind the last level, which timm keeps for EfficientNets: DDP refuses unused parameters."""
    stages = getattr(model, "_stage_out_idx", None)  # {stage: index of its level}
    if stages and isinstance(model.blocks, nn.Sequential):
        model.blocks = model.blocks[: max(stages)]
    return model


@contextlib.contextmanager
def _quiet_timm() -> Iterator[None]:
    """timm logs the classifier's keys as unexpected, although features_only has no classifier."""
    logger = logging.getLogger("timm.models._builder")

    def wanted(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(("Unexpected keys", "Loading pretrained weights"))

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)
