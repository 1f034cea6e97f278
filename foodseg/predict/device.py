"""Which device a process computes on."""

from typing import Literal, get_args

import torch

from foodseg.errors import Unavailable, UserError

Device = Literal["auto", "cpu", "gpu"]


def parse_device(value: str, *, where: str = "--device") -> Device:
    """Returns one of the three; `where` is what errors call it. UserError: it is another one."""
    for device in get_args(Device):
        if value == device:
            return device
    raise UserError(f"{where} {value!r}: use auto, cpu or gpu")


def has_mps() -> bool:
    """Whether torch can use the GPU of a Mac."""
    return torch.backends.mps.is_available()


def pick_device(wanted: Device = "auto", *, mps: bool = True) -> torch.device:
    """Returns the device for this process: with auto the first GPU that it may use, else the CPU.

    Args:
        mps: whether the GPU of a Mac will do; not for what needs float64.

    Raises:
        Unavailable: a GPU is wanted, and torch finds none.
    """
    if wanted != "cpu":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if mps and has_mps():
            return torch.device("mps")
    if wanted == "gpu":
        raise Unavailable("a GPU is wanted, but torch finds neither CUDA nor mps here: choose auto or cpu")
    return torch.device("cpu")


def device_name(device: torch.device) -> str:
    """Returns for example "GPU (NVIDIA A10G)", "GPU (mps)" or "CPU"."""
    if device.type == "cuda":
        return f"GPU ({torch.cuda.get_device_name(device)})"
    return "GPU (mps)" if device.type == "mps" else "CPU"
