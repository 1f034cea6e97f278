"""How near is foodseg to what this machine can do? `python -m experiments throughput`, on an idle machine."""

from typing import Any

from experiments.foodmix import prepared_foodmix
from experiments.item_queue import Bench, Item

CONFIG = "experiments/plain_recipe.yaml"


def data(bench: Bench) -> dict[str, Any]:
    """Streamed images per second, as a share of a bare decoding loop and of a torch DataLoader."""
    return bench.foodseg("bench", "data", "--data", prepared_foodmix(bench), "--config", CONFIG)


def train(bench: Bench) -> dict[str, Any]:
    """Trained images per second, as a share of a bare PyTorch loop."""
    return bench.foodseg("bench", "train", "--data", prepared_foodmix(bench), "--config", CONFIG)


ITEMS: list[Item] = [("data", data), ("train", train)]
