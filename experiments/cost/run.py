"""What does an update cost, relative to the peer's? `python -m experiments cost`, on an idle machine."""

from typing import Any

from experiments.foodmix_runs import peer_update_cost, update_cost
from experiments.item_queue import Bench, Item
from experiments.variants import EARLIER, PLAIN, TEXT_VARIANTS

STEPS = 40
SIDE = 256  # the peer's own


def update(bench: Bench) -> dict[str, Any]:
    """Seconds of an update of 8 images and peak memory of each variant in one process with one thread, and of the peer.

    C1 and E do the same work as C and D, with other names and other conditioning.
    """
    figures: dict[str, Any] = {"peer": peer_update_cost(bench, SIDE)}
    working = {name: TEXT_VARIANTS[name] for name in ("C names", "D C and distillation")}
    for name, settings in {PLAIN: (), "best recipe": EARLIER, **working}.items():
        own = update_cost(bench, name, settings, STEPS)
        figures[name] = {**own, "times_peer": round(own["seconds"] / figures["peer"]["seconds"], 3)}
    return figures


ITEMS: list[Item] = [("update", update)]
