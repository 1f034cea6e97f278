"""What does distillation gain or cost, and why? `python -m experiments distillation`.

The items `cause_...` take the first form apart (the teacher is the running average of the weights, compared by a
divergence at T = 2 and by features): which part of its cost is dropout, mode, temperature or the teacher itself? Each
is a training on five folds at 128 px; `cause` compares them with the recipe without a teacher.
"""

from functools import partial
from typing import Any

from experiments.fold_runs import Group, fold_group, fold_table
from experiments.item_queue import Bench, Item
from experiments.variants import BF16, DISTILL, RARE, Settings

FOLDER = "distillation"
SIDE, STEPS = 128, 505
SCORED: Settings = ("eval.flip=true", f"eval.longest_side={SIDE * 5 // 4}")
TRAINED: Settings = (f"train.steps={STEPS}", "train.ema_horizon=0.1", BF16, *RARE, "optim.backbone_lr_factor=0.3")
NO_TEACHER = "A no teacher"
UNDROPPED = "model.dropout=0"
CAUSES: dict[str, tuple[str, Settings]] = {
    "cause_a": (NO_TEACHER, ()),
    "cause_a_undropped": ("A, dropout 0", (UNDROPPED,)),
    "cause_a_dropped": ("A, dropout 0.4", ("model.dropout=0.4",)),
    "cause_d0": ("D0 distilled", DISTILL),
    "cause_d0_undropped": ("D0, dropout 0", (*DISTILL, UNDROPPED)),
    "cause_d0_same_mode": ("D0, student and teacher in one mode", (*DISTILL, "distill.same_mode=true")),
    "cause_d0_t1": ("D0, T = 1", (*DISTILL, "distill.temperature=1")),
}

CAUSE_GROUPS = {
    item: Group(FOLDER, item, SIDE, (*TRAINED, *settings), {name: SCORED}) for item, (name, settings) in CAUSES.items()
}


def cause(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with the recipe without a teacher."""
    return fold_table(bench, CAUSE_GROUPS, NO_TEACHER)


ITEMS: list[Item] = [
    *((item, partial(fold_group, group=group)) for item, group in CAUSE_GROUPS.items()),
    ("cause", cause),
]
