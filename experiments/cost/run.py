"""What does an update cost, relative to the peer's? `python -m experiments cost`, on an idle machine."""

import json
from typing import Any

from experiments.foodmix import foodmix, weights
from experiments.foodmix_runs import ONE_THREAD, update_cost
from experiments.item_queue import Bench, Item
from experiments.variants import BEST, PLAIN, TEXT_VARIANTS
from foodseg.bench.memory import PeakMemory

STEPS = 40


def update(bench: Bench) -> dict[str, Any]:
    """Seconds of an update of 8 images and peak memory of each variant in one process with one thread, and of the peer.

    C1 and E do the same work as C and D, with other names and other conditioning.
    """
    peer = bench.work / "cost-peer"
    given = ("--data", foodmix(bench), "--weights", weights(bench), "--epochs", 1, "--threads", 1)
    with PeakMemory() as memory:
        bench.python("-m", "experiments.peer", *given, "--out", peer, env=ONE_THREAD)
    timing = json.loads((peer / "seconds.json").read_text(encoding="utf-8"))
    seconds = timing["train_seconds"] / timing["updates"]
    figures: dict[str, Any] = {"peer": {"seconds": round(seconds, 3), "peak_mib": round(memory.largest / 2**20)}}
    working = {name: TEXT_VARIANTS[name] for name in ("C names", "D C and distillation")}
    for name, settings in {PLAIN: (), "best recipe": BEST, **working}.items():
        own = update_cost(bench, name, settings, STEPS)
        figures[name] = {**own, "times_peer": round(own["seconds"] / seconds, 3)}
    return figures


ITEMS: list[Item] = [("update", update)]
