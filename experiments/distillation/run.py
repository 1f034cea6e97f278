"""What does distillation gain or cost, and why? `python -m experiments distillation`.

The items `cause_...` take the first form apart (the teacher is the running average of the weights, compared by a
divergence at T = 2 and by features): which part of its cost is dropout, mode, temperature or the teacher itself? The
others are mechanisms with a reason to work, each with its controls. All are trainings on five folds at 128 px;
`cause` and `mechanisms` compare them with the recipe without a teacher.

`pairs` trains ten teachers, each without two of the five folds: for every run and every image of it there is one that
has seen neither what the run holds out nor the image.
"""

from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import Any

from experiments.fold_runs import FOLDS, Group, fold_group, fold_table, runs_of_folds
from experiments.foodmix_runs import Job, train_side_by_side, variant_run
from experiments.item_queue import Bench, Item
from experiments.variants import BF16, DISTILL, RARE, Settings

FOLDER = "distillation"
SIDE, STEPS = 128, 505
SMALL: Settings = (f"augment.longest_side={SIDE}", f"augment.crop={SIDE}", f"eval.longest_side={SIDE}")
SCORED: Settings = ("eval.flip=true", f"eval.longest_side={SIDE * 5 // 4}")
TRAINED: Settings = (f"train.steps={STEPS}", "train.ema_horizon=0.1", BF16, *RARE, "optim.backbone_lr_factor=0.3")
NO_TEACHER = "A no teacher"
UNDROPPED = "model.dropout=0"
LONGER = 5  # a student and four teachers

CAUSES: dict[str, tuple[str, Settings]] = {
    "cause_a": (NO_TEACHER, ()),
    "cause_a_undropped": ("A, dropout 0", (UNDROPPED,)),
    "cause_a_dropped": ("A, dropout 0.4", ("model.dropout=0.4",)),
    "cause_d0": ("D0 distilled", DISTILL),
    "cause_d0_undropped": ("D0, dropout 0", (*DISTILL, UNDROPPED)),
    "cause_d0_same_mode": ("D0, student and teacher in one mode", (*DISTILL, "distill.same_mode=true")),
    "cause_d0_t1": ("D0, T = 1", (*DISTILL, "distill.temperature=1")),
}

# {pairs}: the ten teachers; {seen}: those that leave out one fold each, and have seen the other images
SOFT = "loss.soft_labels=0.5"
DIST: Settings = ("loss.pixel_correlation=0.5", "loss.class_correlation=0.5")
KEPT = "distill.labels={work}/soft-labels"
UNSEEN: Settings = ("distill.teacher=[{pairs}]", KEPT)
SEEN: Settings = ("distill.teacher=[{seen}]", KEPT)
LARGER: Settings = ("distill.teacher=[{larger}]", KEPT)
STAGES: Settings = ("model.stage_heads=true", "loss.stage_labels=0.7")
PRIVILEGED: Settings = ("model.privileged_head=true", "loss.privileged=0.5", "model.text.kind=table")
MECHANISMS: dict[str, tuple[str, Settings]] = {
    "longer": (f"{LONGER} times the updates", (f"train.steps={LONGER * STEPS}",)),
    "smoothed": ("label smoothing 0.1", ("loss.label_smoothing=0.1",)),
    "r1_soft": ("R1 soft labels, out of fold", (*UNSEEN, SOFT)),
    "r1_dist": ("R1 DIST, out of fold", (*UNSEEN, *DIST)),
    "r1_both": ("R1 soft labels and DIST, out of fold", (*UNSEEN, SOFT, *DIST)),
    "r1_seen": ("R1 soft labels and DIST, in fold", (*SEEN, SOFT, *DIST)),
    "r1b_soft": ("R1b soft labels of the hybrid", (*LARGER, SOFT)),
    "r1b_both": ("R1b soft labels and DIST of the hybrid", (*LARGER, SOFT, *DIST)),
    "r2": ("R2 privileged head", (*PRIVILEGED, "loss.privileged_distill=0.5", "model.text.table={names}")),
    "r2_apart": ("R2, divergence 0", (*PRIVILEGED, "model.text.table={names}")),
    "r2_random": ("R2, random embeddings", (*PRIVILEGED, "loss.privileged_distill=0.5", "model.text.table={random}")),
    "r4": ("R4 stage heads", (*STAGES, "loss.stage_distill=0.3")),
    "r4_apart": ("R4, cross entropy alone", STAGES),
}


def _groups(variants: Mapping[str, tuple[str, Settings]]) -> dict[str, Group]:
    return {
        item: Group(FOLDER, item, SIDE, (*TRAINED, *settings), {name: SCORED})
        for item, (name, settings) in variants.items()
    }


CAUSE_GROUPS, MECHANISM_GROUPS = _groups(CAUSES), _groups(MECHANISMS)


def pairs(bench: Bench) -> dict[str, Any]:
    """Trains the ten teachers of R1, which are the recipe without a teacher."""
    runs = train_side_by_side(bench, [_pair(*folds) for folds in combinations(range(FOLDS), 2)])
    return {"runs": [run.name for run in runs]}


def mechanism(bench: Bench, group: Group) -> dict[str, Any]:
    """Trains and scores a mechanism, with the teachers that it names."""
    teachers = {
        "pairs": [variant_run(bench, *_pair(*folds)[:2]) for folds in combinations(range(FOLDS), 2)],
        "seen": runs_of_folds(bench, FOLDER, "cause_a", NO_TEACHER),
        "larger": runs_of_folds(bench, "encoders", "hybrid_last", "Lite0 and ViT-S/14, last 4 blocks trained"),
    }
    return fold_group(bench, group, {name: ",".join(map(str, runs)) for name, runs in teachers.items()})


def cause(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with the recipe without a teacher."""
    return fold_table(bench, FOLDER, NO_TEACHER, items=[*CAUSE_GROUPS])


def mechanisms(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with the recipe without a teacher."""
    return fold_table(bench, FOLDER, NO_TEACHER, items=["cause_a", *MECHANISM_GROUPS])


def _pair(one: int, other: int) -> Job:
    folds = (f"data.folds={FOLDS}", f"data.held_out=[{one},{other}]", f"train.seed={10 + FOLDS * one + other}")
    return f"teacher-{one}{other}", (*TRAINED, *SMALL, *SCORED, *folds, "scaling.num_workers=0"), STEPS


ITEMS: list[Item] = [
    *((item, partial(fold_group, group=group)) for item, group in CAUSE_GROUPS.items()),
    ("cause", cause),
    ("pairs", pairs),
    *((item, partial(mechanism, group=group)) for item, group in MECHANISM_GROUPS.items()),
    ("mechanisms", mechanisms),
]
