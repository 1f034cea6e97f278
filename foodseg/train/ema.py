"""The teacher: an exponential moving average (EMA) of the student's weights, in evaluation mode.

It is scored beside the student, and with `loss.distill` and its like the student learns from it.

Frozen parameters are the student's own, not a copy: the average of what never changes is that itself, and a second
Stable Diffusion would cost 3.4 GB. What is trained is averaged in float32: with a decay of 0.9999 an update changes a
weight by a ten thousandth of a difference, which bfloat16, good to one part in 256, would round away.
"""

import copy

import torch
from torch import nn

from foodseg.errors import UserError


class Teacher:
    """Follows a module. Floating tensors (weights and BatchNorm statistics) are averaged, integer ones copied.

    The decay is 1 - 1 / (horizon x total_steps), so that `horizon` is the share of the training that is remembered;
    in the first steps it is at most (1 + t) / (10 + t), so that the random start is forgotten.
    """

    def __init__(self, student: nn.Module, horizon: float, total_steps: int) -> None:
        frozen = {name: parameter for name, parameter in student.named_parameters() if not parameter.requires_grad}
        shared = {id(parameter): parameter for parameter in frozen.values()}
        self.module = copy.deepcopy(student, shared).eval().requires_grad_(False)
        self.decay = max(0.0, 1.0 - 1.0 / (horizon * total_steps))
        self._frozen = frozen.keys()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns what is the teacher's own: averaged weights and buffers, by the student's names."""
        return {name: tensor for name, tensor in self.module.state_dict().items() if name not in self._frozen}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Takes what `state_dict` gave; what is shared comes with the student. UserError: not all of it is there."""
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise UserError(f"the average that this checkpoint kept is not whole: {missing[0]} is missing")
        self.module.load_state_dict({**self.module.state_dict(), **state})

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Takes in the student's weights after update number `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own, new = self.state_dict(), student.state_dict()
        floating = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([own[n] for n in floating], [new[n].to(own[n].dtype) for n in floating], 1 - decay)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])
