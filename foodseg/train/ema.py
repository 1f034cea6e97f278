"""The averaged weights of the student, in evaluation mode; they are the teacher where a term of the loss needs one.

They are scored as well as the student: an exponential moving average of all updates. With `loss.distill` and the other
distillation terms the student learns from them.

Frozen parameters are shared with the student, not copied: their average would be equal, and a second Stable Diffusion
would cost 3.4 GB. Trained parameters are averaged in float32: with a decay of 0.9999 an update changes a weight by a
ten thousandth of a difference, which bfloat16, with a precision of one part in 256, would round away.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn

from foodseg.errors import UserError


class Teacher:
    """Follows a module. Floating tensors (weights and BatchNorm statistics) are averaged, integer ones copied.

    The decay is 1 - 1 / (horizon x total_steps), so that `horizon` is the share of the training that is averaged over.
    In the first steps it is at most (1 + t) / (10 + t), so that the random start is forgotten.
    """

    def __init__(self, student: nn.Module, horizon: float, total_steps: int) -> None:
        frozen = {name: parameter for name, parameter in student.named_parameters() if not parameter.requires_grad}
        shared = {id(parameter): parameter for parameter in frozen.values()}
        self.module = copy.deepcopy(student, shared).eval().requires_grad_(False)
        self.decay = max(0.0, 1.0 - 1.0 / (horizon * total_steps))
        self._frozen = frozen.keys()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Returns the averaged weights and buffers, by the student's names, without the shared parameters."""
        return {name: tensor for name, tensor in self.module.state_dict().items() if name not in self._frozen}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Loads what `state_dict` returned; shared parameters come with the student. UserError: a tensor is missing."""
        missing = sorted(self.state_dict().keys() - state.keys())
        if missing:
            raise UserError(f"the averaged weights of this checkpoint are incomplete: {missing[0]} is missing")
        self.module.load_state_dict({**self.module.state_dict(), **state})

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Averages the student's weights in after update number `step` (0, 1, ...)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own, new = self.state_dict(), student.state_dict()
        floating = [name for name, tensor in own.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([own[n] for n in floating], [new[n].to(own[n].dtype) for n in floating], 1 - decay)
        for name in own.keys() - set(floating):
            own[name].copy_(new[name])


@contextlib.contextmanager
def statistics_of_batch(module: nn.Module) -> Iterator[None]:
    """Meanwhile BatchNorm layers in evaluation mode use the statistics of the batch; their own stay as they are."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer in layers:
            layer.training, layer.track_running_stats = False, True
