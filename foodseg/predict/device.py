"""Which device a process computes on."""

import torch


def pick_device() -> torch.device:
    """Returns the first GPU that this process may use, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
