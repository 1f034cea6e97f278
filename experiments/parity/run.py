"""Does foodseg train as well as segmentation_models.pytorch under one recipe? `python -m experiments parity`.

The peer (experiments/peer.py) shares no code with foodseg; peer_recipe.yaml says its recipe in foodseg's words.
"""

import json
from typing import Any

from experiments.foodmix import scores_of
from experiments.foodmix_runs import (
    SEEDS,
    difference,
    plain_seconds_file,
    score,
    score_folder,
    score_peer,
    train_peer,
    train_plain,
)
from experiments.item_queue import Bench, Item


def parity(bench: Bench) -> dict[str, Any]:
    """The peer and ours on test, two seeds each; what is trained already is reused."""
    figures: dict[str, Any] = {}
    for seed in SEEDS:
        peer_seconds, run = train_peer(bench, seed), train_plain(bench, seed)
        seconds = plain_seconds_file(run)
        peer = score_peer(bench, seed)
        peer_metrics = json.loads((peer / "metrics.json").read_text(encoding="utf-8"))
        figures[f"seed {seed}"] = {
            "scores": {"peer": scores_of(peer_metrics), "ours": score(bench, run, "test")},
            "ours_minus_peer": difference(bench, score_folder(bench, run, "test"), peer),
            "training": {
                "peer": peer_seconds,
                "ours": json.loads(seconds.read_text(encoding="utf-8"))
                if seconds.exists()
                else {"train_seconds": None},
            },
        }
    return figures


ITEMS: list[Item] = [("parity", parity)]
