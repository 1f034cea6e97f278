"""Antialiased resizing as two matrix products, which every ONNX runtime computes alike and at any size.

    with MatrixResize():
        torch.onnx.export(network, ...)

A ViT resizes images to whole patches, and its position embeddings to the grid. The exporter knows no antialiased
`interpolate`; ONNX's own Resize has it, but runtimes differ in it. Within `MatrixResize` such a call becomes
R x C^T, with the weights of torch's filter as rows of R and C, which are computed from the size of the image.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode


class MatrixResize(TorchFunctionMode):
    """Within it, `interpolate` with antialias=True is computed by `resize`; all else is as it was."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See torch.overrides."""
        options = dict(kwargs or {})
        if func is interpolate and options.get("antialias"):
            return resize(args[0], options["size"], options["mode"])
        return func(*args, **options)


def resize(x: torch.Tensor, size: Sequence[int], mode: str) -> torch.Tensor:
    """(B, C, H, W) -> (B, C, *size), as `interpolate` with antialias=True and align_corners=False.

    Args:
        mode: bilinear or bicubic.
    """
    assert mode in ("bilinear", "bicubic"), mode
    kernel = _triangle if mode == "bilinear" else _cubic
    rows, columns = (_weights(old, new, kernel) for old, new in zip(x.shape[2:], size, strict=True))
    return rows @ x @ columns.T


def _weights(old: int, new: int, kernel: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Returns (new, old) float32, the share of each old sample in each new one. Sizes are tensors while traced."""
    scale = torch.as_tensor(old, dtype=torch.float32) / torch.as_tensor(new, dtype=torch.float32)
    centres = (torch.arange(new, dtype=torch.float32) + 0.5) * scale
    samples = torch.arange(old, dtype=torch.float32) + 0.5
    weights = kernel((samples[None] - centres[:, None]).abs() / scale.clamp_min(1.0))
    return weights / weights.sum(1, keepdim=True)


def _triangle(x: torch.Tensor) -> torch.Tensor:
    return (1 - x).clamp_min(0)


def _cubic(x: torch.Tensor) -> torch.Tensor:
    near = (1.5 * x - 2.5) * x * x + 1  # a = -0.5, torch's choice where it is antialiased
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
