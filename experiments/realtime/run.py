"""What do class names, learned prompts and a teacher add to a small fast segmenter? `python -m experiments realtime`.

The items of `GROUPS` are trained at 128 px on five folds, the controls with the names exchanged; `table` compares them
with the network without text. The items of `FULL` are trained at 256 px on train and val, three seeds each, and scored
on test; `differences` compares them. All have one recipe (Lite0, rare classes, Lovasz-Softmax); in stage two, a quarter
of the updates, prompts are learned. `speed` is what both sizes cost on this machine.

The teachers are those of other questions: out of fold `encoders/hybrid_last`, at full size the best recipe.
"""

from functools import partial
from typing import Any

from experiments.counts import compared, counts_file, keep
from experiments.fold_runs import Group, fold_group, fold_table, runs_of_folds
from experiments.foodmix_runs import recipe_job, score, score_folder, train_variant
from experiments.item_queue import Bench, Item, ItemError
from experiments.variants import BEST, CHOSEN, STUDENT, Settings

FOLDER = "realtime"
SIDE, STEPS = 128, 505
SEEDS = (0, 1, 2)
SCORED: Settings = ("eval.flip=true", f"eval.longest_side={SIDE * 5 // 4}")
FULL_SCORED: Settings = ("eval.flip=true", "eval.longest_side=320")
M: Settings = ("model.kind=realtime", "model.realtime.size=M")
S: Settings = ("model.kind=realtime", "model.realtime.size=S")
TEXT: Settings = ("model.text.kind=table", "loss.pixel_text=1", "loss.image_text=0.1")
NAMES: Settings = (*TEXT, "model.text.table={names}")
PERMUTED: Settings = (*TEXT, "model.text.table={permuted}")
PROMPTS: Settings = ("model.realtime.context_tokens=4",)
DISTILLED_FROM_LARGER: Settings = ("distill.teacher=[{teachers}]", "loss.soft_labels=0.5", "loss.pixel_correlation=0.5")
KEPT: Settings = ("distill.labels={work}/soft-labels",)

PLAIN = "M without text"
VARIANTS: dict[str, tuple[str, Settings]] = {
    "m_plain": (PLAIN, M),
    "m_names": ("M stage 1", (*M, *NAMES)),
    "m_names_permuted": ("M stage 1, names exchanged", (*M, *PERMUTED)),
    "m_prompts": ("M stages 1 and 2", (*M, *NAMES, *PROMPTS)),
    "m_prompts_permuted": ("M stages 1 and 2, names exchanged", (*M, *PERMUTED, *PROMPTS)),
    "m_distilled": ("M stages 1 and 2, distilled", (*M, *NAMES, *PROMPTS, *DISTILLED_FROM_LARGER, *KEPT)),
    "m_plain_distilled": ("M without text, distilled", (*M, *DISTILLED_FROM_LARGER, *KEPT)),
    "s_plain": ("S without text", S),
    "s_distilled": ("S stages 1 and 2, distilled", (*S, *NAMES, *PROMPTS, *DISTILLED_FROM_LARGER, *KEPT)),
}
GROUPS = {
    item: Group(
        FOLDER, item, SIDE, (*CHOSEN, f"train.steps={STEPS}", "train.ema_horizon=0.1", *settings), {name: SCORED}
    )
    for item, (name, settings) in VARIANTS.items()
}
# What text adds, and what it adds with the names exchanged, is compared out of fold alone.
FULL = {
    item: VARIANTS[item][1] for item in ("m_plain", "m_names", "m_prompts", "m_distilled", "s_plain", "s_distilled")
}
CONTRASTS = {
    "names": ("m_names", "m_plain"),
    "prompts": ("m_prompts", "m_names"),
    "distillation of M": ("m_distilled", "m_prompts"),
    "all of M": ("m_distilled", "m_plain"),
    "all of S": ("s_distilled", "s_plain"),
    "size": ("m_distilled", "s_distilled"),
}


def folds(bench: Bench, group: Group) -> dict[str, Any]:
    """Trains and scores a variant out of fold."""
    teachers = runs_of_folds(bench, "encoders", "hybrid_last", "Lite0 and ViT-S/14, last 4 blocks trained")
    return fold_group(bench, group, {"teachers": ",".join(map(str, teachers))})


def table(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with the network without text, by the student's and by averaged weights."""
    return fold_table(bench, FOLDER, PLAIN)


def full_size(bench: Bench, item: str, seed: int) -> dict[str, Any]:
    """Trains a variant at 256 px and scores it on test; the teacher is the best recipe of the same seed."""
    settings = (*CHOSEN, *FULL[item])
    if any("{teachers}" in setting for setting in settings):
        teacher = train_variant(bench, *recipe_job("best", BEST, seed))
        settings = tuple(setting.replace("{teachers}", str(teacher)) for setting in settings)
    settings = tuple(setting.replace("{work}", str(bench.work)) for setting in settings)
    run = train_variant(bench, *recipe_job(f"{FOLDER}-{item}", settings, seed))
    found = score(bench, run, "test", STUDENT, *FULL_SCORED)
    keep(FOLDER, f"{item}-{seed}", [score_folder(bench, run, "test", STUDENT, *FULL_SCORED) / "images.parquet"])
    return found


def differences(bench: Bench) -> dict[str, Any]:
    """Compares the variants at full size, over all seeds: headline, core and all classes."""
    kept = {item: {seed: f"{item}-{seed}" for seed in SEEDS} for item in FULL}
    missing = [name for runs in kept.values() for name in runs.values() if not counts_file(FOLDER, name).exists()]
    if missing:
        raise ItemError(f"not scored yet: {', '.join(missing)}")
    return compared(bench, FOLDER, kept, CONTRASTS).to_json()


def speed(bench: Bench) -> dict[str, Any]:
    """Parameters, GFLOPs and milliseconds of both sizes and of the default recipe."""
    return bench.foodseg("bench", "realtime")


ITEMS: list[Item] = [
    ("speed", speed),
    *((item, partial(folds, group=group)) for item, group in GROUPS.items()),
    ("table", table),
    *((f"full_{item}_{seed}", partial(full_size, item=item, seed=seed)) for item in FULL for seed in SEEDS),
    ("differences", differences),
]
