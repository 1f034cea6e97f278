"""Depthwise convolutions on a CPU that computes in bfloat16: in float32, in which their gradient is much faster.

    compute_in_float32(model)      # each depthwise convolution of it, under autocast on a CPU

torch's CPU kernels for the gradient of a depthwise convolution in bfloat16 take most of an update of an EfficientNet,
where all else takes a half of its time in float32. On a GPU, and without autocast, nothing changes.
"""

import functools
from typing import Any

import torch
from torch import nn


def compute_in_float32(model: nn.Module) -> None:
    """Changes the depthwise convolutions of a model in place; names and values of parameters stay."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
            # another class and no wrapper: a copy of the model computes with its own weights
            module.__class__ = _in_float32(type(module))  # type: ignore[arg-type]


class _Float32:
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H', W') in the autocast type where that is on."""
        inner: Any = super()
        if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return inner.forward(x)
        with torch.autocast("cpu", enabled=False):
            return inner.forward(x.float()).to(torch.get_autocast_dtype("cpu"))


@functools.cache
def _in_float32(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    return type(f"Float32{kind.__name__}", (_Float32, kind), {})
