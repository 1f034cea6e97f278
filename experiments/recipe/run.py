"""Which recipe is better than the peer's, and by how much? `python -m experiments recipe`.

`scout` tries one change at a time at 128 px, trained on train and scored on val; the best recipe was fixed by its
figures (variants.EARLIER), and only then scored on test (`best`).
"""

from typing import Any

from experiments.foodmix_runs import (
    SEEDS,
    against_peer,
    earlier_job,
    score,
    scout_job,
    train_plain,
    train_side_by_side,
)
from experiments.item_queue import Bench, Item
from experiments.variants import EARLIER_SCORED, PLAIN, RARE, SCOUTED_VARIANTS, STUDENT, VOCABULARY, Settings

SCOUTED: dict[str, Settings] = {
    "plain": (),
    "encoder lr x 0.3": ("optim.backbone_lr_factor=0.3",),
    "paste": ("augment.paste=0.5",),
    "repeat factors": RARE,
    "scale": ("augment.scale=[0.75, 2.0]",),
    "repeat factors, encoder lr x 0.3": (*RARE, "optim.backbone_lr_factor=0.3"),
    "repeat factors, encoder lr x 0.3, larger": (
        *RARE,
        "optim.backbone_lr_factor=0.3",
        "augment.longest_side=160",
        "augment.crop=144",
        "eval.longest_side=160",
    ),
    "repeat factors, encoder lr x 1": (*RARE, "optim.backbone_lr_factor=1.0"),
    **SCOUTED_VARIANTS,
}


def scout(bench: Bench) -> dict[str, Any]:
    """What each change does at 128 px on val; what is trained already is reused."""
    runs = train_side_by_side(bench, [scout_job(*each) for each in SCOUTED.items()])
    figures: dict[str, Any] = {}
    for (name, settings), run in zip(SCOUTED.items(), runs, strict=True):
        side = 160 if "eval.longest_side=160" in settings else 128
        # scales from 0.8 to 1.6 show things larger in training than they are at the image's own size
        larger = ("eval.flip=true", f"eval.longest_side={side * 5 // 4}")
        ways = {f"{side} px": VOCABULARY, f"{side * 5 // 4} px, mirrored": larger}
        scored = {way: score(bench, run, "val", STUDENT, *how) for way, how in ways.items()}
        figures[name] = {"settings": list(settings), **scored}
    return figures


def best(bench: Bench) -> dict[str, Any]:
    """The best recipe and the plain one on test compared with the peer, two seeds each."""
    trained = train_side_by_side(bench, [earlier_job(seed) for seed in SEEDS])
    figures: dict[str, Any] = {}
    for seed, run in zip(SEEDS, trained, strict=True):
        figures[f"best recipe, seed {seed}"] = {"vocabulary": against_peer(bench, run, seed, EARLIER_SCORED)}
        # what of the best recipe is in the scoring alone
        ways = {"vocabulary": VOCABULARY, "320 px, mirrored": ("eval.flip=true", "eval.longest_side=320")}
        plain = train_plain(bench, seed)
        figures[f"{PLAIN}, seed {seed}"] = {way: against_peer(bench, plain, seed, how) for way, how in ways.items()}
    return figures


ITEMS: list[Item] = [("scout", scout), ("best", best)]
