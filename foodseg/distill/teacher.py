"""The teacher: an exponential moving average (EMA) of the student's weights, in evaluation mode.

It is scored beside the student, and with `loss.distill` or `loss.features` the student learns from it.
"""

import copy

import torch
from torch import nn


class Teacher:
    """Follows a module. Floating tensors (weights and BatchNorm statistics) are averaged, integer ones copied.

    The decay is 1 - 1 / (horizon x total_steps), so that `horizon` is the share of the training that is remembered;
    in the first steps it is at most (1 + t) / (10 + t), so that the random start is forgotten.
    """

    def __init__(self, student: nn.Module, horizon: float, total_steps: int) -> None:
        self.module = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = max(0.0, 1.0 - 1.0 / (horizon * total_steps))

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Takes in the student's weights after update number `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own, new = self.module.state_dict(), student.state_dict()
        floating = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([own[n] for n in floating], [new[n].to(own[n].dtype) for n in floating], 1 - decay)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])
