"""A pytest plugin that plays another processor: what is computed rounds otherwise for each shape of its input.

python -m pytest -p tests.support.rounding tests/unit

Kernels are chosen by processor, shape and number of threads. Here the same shapes give the same bits, as on a real
machine, and other shapes (a batch and a single image, a window and the whole) differ in the last bits, as they may on
any. A test that compares such results to the bit fails. Processes that a test starts are not changed.
"""

import functools
import zlib
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
ROUNDED = {
    getattr(aten, name)
    for name in (
        "convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear",
        "_scaled_dot_product_flash_attention_for_cpu", "_softmax", "_log_softmax", "exp", "log", "pow", "sigmoid",
        "tanh", "gelu", "sum", "mean", "native_layer_norm", "native_group_norm", "native_batch_norm",
        "upsample_bilinear2d",
    )
}  # fmt: skip
STEPS = 8  # in the last place: what two orders of a long sum differ by
LARGEST = 2**22  # of the noise that is kept; larger results repeat it


@functools.lru_cache(maxsize=256)
def noise(seed: int, count: int) -> torch.Tensor:
    """Returns (count,) float64 between -1 and 1, the same for the same seed."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


class OtherKernels(TorchDispatchMode):
    """Changes the last bits of what the functions in ROUNDED return."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket not in ROUNDED:
            return result
        shapes = [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]
        seed = zlib.crc32(repr((str(func), shapes)).encode())
        if isinstance(result, torch.Tensor):
            return rounded(result, seed)
        return tuple(rounded(part, seed + i) for i, part in enumerate(result))


def rounded(result: Any, seed: int) -> Any:
    """Returns a tensor with other last bits, what is 0 and anything else as it is."""
    if not isinstance(result, torch.Tensor) or result.device.type != "cpu" or not result.is_floating_point():
        return result
    if result.dtype not in (torch.float32, torch.float64) or not result.numel():
        return result
    count = min(result.numel(), LARGEST)
    drawn = noise(seed, count)
    drawn = drawn.repeat(-(-result.numel() // count))[: result.numel()].view(result.shape).to(result.dtype)
    return result + result * (STEPS * torch.finfo(result.dtype).eps * drawn)


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[_MODE] = OtherKernels().__enter__()


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash[_MODE].__exit__(None, None, None)


_MODE = pytest.StashKey[OtherKernels]()
