"""Copies to the device that the CPU does not wait for: else it could not prepare the next kernels meanwhile."""

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Returns a tensor of the CPU on the device, by way of pinned memory where the device is a GPU of CUDA."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
