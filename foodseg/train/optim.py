"""AdamW with parameter groups, and the learning rate over the steps."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from foodseg.config.optim import OptimConfig


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.AdamW:
    """AdamW with a rate for the backbone and one for the rest; biases and normalisation are not decayed."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.lr * (config.backbone_lr_factor if in_backbone else 1.0),
                "weight_decay": config.weight_decay if decayed else 0.0,
            }
            for (in_backbone, decayed), parameters in groups.items()
        ],
        betas=config.betas,
        fused=True,  # one kernel for all parameters: a third of the time of the default on a CPU
    )


def build_schedule(config: OptimConfig, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    """The learning rate per step: torch's OneCycleLR, or a linear warm-up followed by poly or cosine to 0."""
    if config.schedule == "one_cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        # torch divides by (steps of the rise - 1) and by the steps of the fall: they must be at least two and one
        steps = max(3, total_steps)
        return OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, pct_start=max(config.warmup, 2 / steps))
    warmup_steps = round(config.warmup * total_steps)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        if config.schedule == "poly":
            return (1 - min(1.0, done)) ** config.poly_power
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return LambdaLR(optimizer, factor)
