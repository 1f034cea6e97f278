"""Which change of the recipe gains out of fold? `python -m experiments recipe_changes`.

One change at a time, on the hybrid encoder, of whose ViT four blocks are trained, at 128 px. Each item is a training on
five folds, scored in one or several ways; `table` compares each that is recorded with the plain one. The record
`uniform` is of `train.average: uniform`, the plain mean of the weights after each of the last fifth of the updates,
which gained nothing, and `progressive` of `augment.small_updates`, crops of half the side in the first 0.7 of the
updates, which cost seven points; both were removed.
"""

from functools import partial
from typing import Any

from experiments.fold_runs import Group, fold_group, fold_table
from experiments.item_queue import Bench, Item, removed
from experiments.variants import BF16, FASTER_ENCODER, LAST_BLOCKS, RARE, SCALES, Settings

FOLDER = "recipe_changes"
SIDE, STEPS = 128, 505
LARGE = 192


def _scored(side: int) -> Settings:
    # scales from 0.8 to 1.6 show things larger in training than they are at the image's own size
    return ("eval.flip=true", f"eval.longest_side={side * 5 // 4}")


PLAIN = "plain"
SCORED = _scored(SIDE)
TRAINED: Settings = (
    f"train.steps={STEPS}",
    "train.ema_horizon=0.1",
    BF16,
    *RARE,
    FASTER_ENCODER,
    *LAST_BLOCKS,
)
FEWER = round(0.475 * STEPS)  # take as long at 192 px as all at 128 px, and as 0.7 of them at 96 px and then the rest
HEAD: Settings = ("model.ingredient_head=true", "loss.ingredients=0.2")
PRIOR: Settings = ("eval.ingredients=predicted", "eval.restrict=soft")

GROUPS: dict[str, Group] = {
    "plain": Group(
        FOLDER, "plain", SIDE, TRAINED,
        {
            PLAIN: SCORED,
            "not mirrored, own size": (),
            "three scales": (*SCORED, *SCALES),
            "logit adjustment 0.1": (*SCORED, "eval.logit_adjustment=0.1"),
            "logit adjustment 0.25": (*SCORED, "eval.logit_adjustment=0.25"),
            "logit adjustment 0.5": (*SCORED, "eval.logit_adjustment=0.5"),
        },
    ),
    "lovasz": Group(
        FOLDER, "lovasz", SIDE, (*TRAINED, "loss.lovasz=0.5"),
        {
            "Lovasz 0.5": SCORED,
            "Lovasz 0.5, three scales": (*SCORED, *SCALES),
            "Lovasz 0.5, logit adjustment 0.1": (*SCORED, "eval.logit_adjustment=0.1"),
            "Lovasz 0.5, logit adjustment 0.1, three scales": (
                *SCORED, "eval.logit_adjustment=0.1", *SCALES,
            ),
        },
    ),
    "head": Group(
        FOLDER, "head", SIDE, (*TRAINED, *HEAD),
        {
            "ingredient head": SCORED,
            "soft prior 0.5": (*SCORED, *PRIOR, "eval.restrict_lambda=0.5"),
            "soft prior 1": (*SCORED, *PRIOR),
        },
    ),
    "fewer_larger": Group(
        FOLDER, "fewer-larger", LARGE, (*TRAINED, f"train.steps={FEWER}"),
        {"192 px, 0.475 of the updates": _scored(LARGE)},
    ),
}  # fmt: skip


def table(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with the plain training, by the student's and by averaged weights."""
    return fold_table(bench, FOLDER, PLAIN)


ITEMS: list[Item] = [
    *((name, partial(fold_group, group=group)) for name, group in GROUPS.items()),
    *((name, removed) for name in ("uniform", "progressive")),
    ("table", table),
]
