"""`foodseg bench realtime`: what an image costs the real-time segmenter in its sizes, and the default recipe.

    bench_realtime(sides=(256, 512), rounds=20)

Networks of random weights in PyTorch as `predict` runs them (evaluation mode, text folded, channels_last), on one
thread, one image at a time. They take turns, so that a slow moment is slow for all.
"""

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from foodseg.bench.machine import machine_facts
from foodseg.bench.results import NetworkCost, RealtimeBench
from foodseg.config.model import ModelConfig
from foodseg.config.realtime import SIZES
from foodseg.config.recipe import load_recipe
from foodseg.errors import UserError
from foodseg.models.build import build_network
from foodseg.models.realtime import RealtimeNetwork

CLASSES = 104  # FoodSeg103's
TEXT_WIDTH = 384  # MiniLM's
MULTIPLE = 32
WARM_UP = 2  # forward passes that are not counted


def bench_realtime(sides: Sequence[int] = (256, 512), rounds: int = 20) -> RealtimeBench:
    """Measures all networks at square images of these sides, each `rounds` times.

    Raises:
        UserError: a side is not a multiple of 32 pixels, which every network takes.
    """
    wrong = [side for side in sides if side < MULTIPLE or side % MULTIPLE]
    if wrong:
        raise UserError(f"--side must be a multiple of {MULTIPLE} pixels, found {wrong[0]}")
    facts = machine_facts(os.cpu_count() or 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        networks = {f"realtime {size}": _network(_realtime(size)) for size in SIZES}
        networks["default recipe"] = _network(_without_weights(load_recipe().config.model.model_dump()))
        costs = tuple(cost for side in sides for cost in _costs(networks, side, rounds))
    finally:
        torch.set_num_threads(threads)
    return RealtimeBench(costs, CLASSES, rounds, facts)


def _realtime(size: str) -> dict[str, Any]:
    text = {"kind": "table", "table": "random"}
    return {"kind": "realtime", "weights": "none", "realtime": {"size": size}, "text": text}


def _without_weights(model: dict[str, Any]) -> dict[str, Any]:
    return {**model, "weights": "none", "vit": {**model["vit"], "weights": "none"}}


def _network(model: dict[str, Any]) -> nn.Module:
    config = ModelConfig.model_validate(model)
    text = torch.randn(CLASSES, TEXT_WIDTH) if config.text.kind != "none" else None
    network = build_network(config, CLASSES, text=text)
    if isinstance(network, RealtimeNetwork):
        network.fold()
    return network.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def _costs(networks: dict[str, nn.Module], side: int, rounds: int) -> list[NetworkCost]:
    image = torch.rand(1, 3, side, side).contiguous(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(WARM_UP + rounds):
        for name, network in networks.items():
            began = time.perf_counter()
            network(image)
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - began)
    return [
        NetworkCost(
            name,
            side,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            gflops=_flops(network, image) / 1e9,
            median_ms=1000 * statistics.median(seconds[name]),
            least_ms=1000 * min(seconds[name]),
        )
        for name, network in networks.items()
    ]


def _flops(network: nn.Module, image: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        network(image)
    return counter.get_total_flops()
