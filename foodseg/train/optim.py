"""AdamW with parameter groups, and the learning rate over the steps, in one stage or in two."""

import math
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from foodseg.config.optim import OptimConfig, StageTwoConfig
from foodseg.models.backbones.hybrid import Hybrid
from foodseg.models.backbones.vit import PlainViT
from foodseg.models.text.prompts import Prompts

STAGE_TWO = "stage_two_lr"  # a group's peak rate in stage two


def build_optimizer(config: OptimConfig, model: nn.Module) -> torch.optim.AdamW:
    """AdamW with a rate for the backbone and one for the rest; biases and normalisation are not decayed.

    A ViT has a rate for each block; the layers that make a pyramid of its tokens count as the rest. Context tokens are
    a group of their own, which does not move in stage one.
    """
    factors, undecayed = _pretrained(model)
    contexts = [part.context for part in model.modules() if isinstance(part, Prompts)]
    groups: dict[tuple[float | None, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not any(parameter is context for context in contexts):
            decayed = parameter.ndim > 1 and name not in undecayed
            groups.setdefault((factors.get(name), decayed), []).append(parameter)
    if not groups:
        groups[None, False] = []  # a model that is solved, not trained; torch refuses a list without groups
    listed: list[dict[str, Any]] = [
        {
            "params": parameters,
            "lr": config.lr * (1.0 if factor is None else config.backbone_lr_factor * factor),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (factor, decayed), parameters in groups.items()
    ]
    if contexts:
        for group in listed:
            group[STAGE_TWO] = group["lr"] * config.stage_two.network_factor
        # the first: the log shows the rate of the last one
        listed.insert(0, {"params": contexts, "lr": 0.0, "weight_decay": 0.0, STAGE_TWO: config.stage_two.context_lr})
    return torch.optim.AdamW(
        listed,
        betas=config.betas,
        fused=True,  # one kernel for all parameters: a third of the time of the default on a CPU
    )


def _pretrained(model: nn.Module) -> tuple[dict[str, float], set[str]]:
    """Returns by parameter of the backbone the factor of its rate, and which of all parameters are not decayed."""
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, PlainViT | Hybrid):
        factors, undecayed = backbone.rate_factors(), backbone.no_weight_decay()
    else:
        factors = {name: 1.0 for name, _ in backbone.named_parameters()} if backbone is not None else {}
        undecayed = set()
    return {f"backbone.{name}": factor for name, factor in factors.items()}, {f"backbone.{name}" for name in undecayed}


def stage_two_begins(config: StageTwoConfig, total_steps: int) -> int:
    """Returns how many updates are stage one; each stage has one at least, where there are two."""
    return max(1, min(total_steps - 1, round(config.begins * total_steps)))


def build_schedule(
    config: OptimConfig, optimizer: torch.optim.Optimizer, total_steps: int
) -> "LRScheduler | TwoStageSchedule":
    """The learning rate per step: one schedule, or with context tokens one for each stage."""
    if any(STAGE_TWO in group for group in optimizer.param_groups):
        return TwoStageSchedule(config, optimizer, total_steps)
    return _one_stage(config, optimizer, total_steps)


class TwoStageSchedule:
    """A whole schedule for each stage, with the methods of torch's schedules that the loop needs.

    torch makes one schedule for an optimizer: here one for a stand-in, whose rates the groups of the optimizer get.

    At the switch the peak rates are those of stage two. What the optimizer has averaged of parameters without a rate in
    stage one is forgotten: their gradients were 0, and an average over so many updates would make the first steps of
    Adam too long.
    """

    def __init__(self, config: OptimConfig, optimizer: torch.optim.Optimizer, total_steps: int) -> None:
        self._config, self._optimizer, self._total_steps = config, optimizer, total_steps
        self._begins = stage_two_begins(config.stage_two, total_steps)
        self._peaks = [(float(group["lr"]), float(group[STAGE_TWO])) for group in optimizer.param_groups]
        self._done = 0
        self._begin(0)
        self._apply()

    def step(self) -> None:
        """Sets the rates of the next update."""
        self._done += 1
        if self._done == self._begins:
            self._forget_resting()
            self._begin(1)
        else:
            self._stand_in.step()  # of nothing; torch warns of a schedule that is stepped alone
            self._schedule.step()
        self._apply()

    def get_last_lr(self) -> list[float]:
        """Returns the rate of each group of parameters."""
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"done": self._done, "schedule": self._schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state; the rates of the next update come with that of the optimizer."""
        self._done = state["done"]
        self._begin(int(self._done >= self._begins))
        self._schedule.load_state_dict(state["schedule"])

    def _begin(self, stage: int) -> None:
        groups = [{"params": [nn.Parameter(torch.empty(0))], "lr": peaks[stage]} for peaks in self._peaks]
        steps = (self._begins, self._total_steps - self._begins)[stage]
        self._stand_in = torch.optim.AdamW(groups, betas=self._config.betas)
        self._schedule = _one_stage(self._config, self._stand_in, steps)

    def _apply(self) -> None:
        for group, own in zip(self._optimizer.param_groups, self._stand_in.param_groups, strict=True):
            group.update(lr=own["lr"], betas=own["betas"])

    def _forget_resting(self) -> None:
        for group, (first, _) in zip(self._optimizer.param_groups, self._peaks, strict=True):
            if first == 0:
                for parameter in group["params"]:
                    self._optimizer.state.pop(parameter, None)


def _one_stage(config: OptimConfig, optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    """torch's OneCycleLR, or a linear warm-up followed by poly or cosine to 0."""
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
