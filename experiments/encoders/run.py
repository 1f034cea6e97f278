"""Which encoder is best out of fold: convolutional, a plain ViT, or both? `python -m experiments encoders`.

`crops` measures whether the tokens of a crop can be cut from those of the whole image. Each other item trains one
encoder at 192 px on five folds; `table` compares them.
"""

from functools import partial
from typing import Any

from experiments.counts import compared
from experiments.fold_runs import FOLDS, KINDS, Group, fold_group, kept_name
from experiments.item_queue import HERE, Bench, Item, read_results
from experiments.variants import HYBRID, PLAIN_VIT, RARE, Settings

FOLDER = "encoders"
SIDE, STEPS = 192, 505
SCORED: Settings = ("eval.flip=true", f"eval.longest_side={SIDE * 5 // 4}")
TRAINED: Settings = (f"train.steps={STEPS}", "train.ema_horizon=0.1", *RARE, "optim.backbone_lr_factor=0.3")
LITE0 = "Lite0"
ENCODERS: dict[str, tuple[str, Settings]] = {
    "lite0": (LITE0, ()),
    "vit_frozen": ("ViT-S/14, frozen", PLAIN_VIT),
    "vit_full": ("ViT-S/14", (*PLAIN_VIT, "model.vit.trained=full", "optim.backbone_lr_factor=0.1")),
    "hybrid": ("Lite0 and ViT-S/14, frozen", HYBRID),
    "hybrid_last": ("Lite0 and ViT-S/14, last 4 blocks trained", (*HYBRID, "model.vit.trained=last")),
    "hybrid_full": ("Lite0 and ViT-S/14, trained", (*HYBRID, "model.vit.trained=full")),
}


def table(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with Lite0, by the student's and by averaged weights."""
    finished = read_results(HERE / FOLDER / "results.json")
    names = [name for item, (name, _) in ENCODERS.items() if item in finished]
    figures = {}
    for kind in KINDS:
        variants = {name: {0: kept_name(name, kind)} for name in names}
        contrasts = {name: (name, LITE0) for name in names if name != LITE0}
        figures[kind] = compared(bench, FOLDER, variants, contrasts, folds=FOLDS).to_json()
    return figures


def _group(name: str, variant: str, settings: Settings) -> Group:
    return Group(FOLDER, name, SIDE, (*TRAINED, *settings), {variant: SCORED})


ITEMS: list[Item] = [
    *((name, partial(fold_group, group=_group(name, *given))) for name, given in ENCODERS.items()),
    ("table", table),
]
