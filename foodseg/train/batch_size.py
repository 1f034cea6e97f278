"""The number of images that a rank sees at once, and whether it is enough for the model's BatchNorm."""

import torch
from torch import nn

from foodseg.config import ExperimentConfig
from foodseg.errors import UserError


def micro_batch_size(config: ExperimentConfig, world_size: int) -> int:
    """Returns images per forward pass: the largest divisor of a rank's share within train.micro_batch."""
    share = config.train.global_batch // world_size
    return max(size for size in range(1, share + 1) if share % size == 0 and size <= config.train.micro_batch)


def require_crops(model: nn.Module, config: ExperimentConfig) -> None:
    """Refuses crops that a model does not take: some backbones take images of one size alone, and raise for another.

    Raises:
        UserError: that is so; or as `require_statistics`.
    """
    try:
        require_statistics(model, config)
    except (AssertionError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"model.backbone {config.model.backbone!r} does not take crops of augment.crop = {config.augment.crop} "
            f"pixels ({str(error).strip()[:200]}): choose another crop or another backbone"
        ) from None


@torch.no_grad()
def require_statistics(model: nn.Module, config: ExperimentConfig) -> None:
    """Refuses a training in which some BatchNorm layer would see one value per channel: that has no variance.

    Args:
        model: takes (1, 3, H, W) float, of a region classifier (1, V, 3, H, W); unchanged except for its mode.

    Raises:
        UserError: there is such a layer. Whatever the model itself raises for crops that it does not take.
    """
    seen: dict[str, int] = {}  # values per channel and image, by the name of the layer
    hooks = [
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.update({name: inputs[0].numel() // inputs[0].shape[1]})
        )
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    side = config.augment.crop
    views = () if config.regions is None else (config.regions.view_count,)
    try:
        model.eval()(torch.zeros(1, *views, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    if config.train.batch_norm == "frozen" or not seen:
        return
    name = min(seen, key=lambda layer: seen[layer])
    for world_size in config.world_sizes:
        images = micro_batch_size(config, world_size)
        if config.train.batch_norm == "sync":
            images *= world_size
        if images * seen[name] == 1:
            raise UserError(
                f"{_who(world_size)} one image at a time (train.global_batch = {config.train.global_batch}, "
                f"train.micro_batch = {config.train.micro_batch}), and of a crop of {side} pixels the layer {name} of "
                f"{config.model.backbone} sees one value per channel, of which BatchNorm has no variance: let a worker "
                "see two images at a time, raise augment.crop, or set train.batch_norm=frozen"
            )


def _who(world_size: int) -> str:
    return "training sees" if world_size == 1 else f"with {world_size} workers each sees"
