"""What are class names, and lists of ingredients, worth out of fold? `python -m experiments names`.

A is image only; C has true names, C1 the same with the names exchanged, C2 random embeddings. What is provided in the
table is the truth, an oracle. `menu` gives models lists as an app has them: of several lengths, with wrong names, and
with some missing. The cosine heads are compared by how often a class is trained on.
"""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from experiments.counts import compared, keep
from experiments.fold_runs import FOLDS, Group, fold_group, fold_table
from experiments.foodmix import prepared_foodmix
from experiments.foodmix_runs import slug
from experiments.item_queue import Bench, Item
from experiments.variants import BF16, NAMES, PREDICTED, RARE, STUDENT, TEXT, Settings
from foodseg.config.data import DataConfig
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.eval.evaluate import evaluate_rows
from foodseg.eval.scored_rows import held_out_fold

FOLDER = "names"
SIDE, STEPS = 128, 505
SCORED: Settings = ("eval.flip=true", f"eval.longest_side={SIDE * 5 // 4}")
TRAINED: Settings = (f"train.steps={STEPS}", "train.ema_horizon=0.1", BF16, *RARE, "optim.backbone_lr_factor=0.3")
PROVIDED: Settings = (*SCORED, "eval.ingredients=provided")
HARD: Settings = (*PROVIDED, "eval.restrict=hard")
PLAIN, NAMED = "A image only", "C names"
PRIOR: Settings = ("model.classifier=text_prior", "model.text.kind=table")


def _group(item: str, settings: Settings, **ways: Settings) -> Group:
    return Group(FOLDER, item, SIDE, (*TRAINED, *settings), ways)


def _conditioned(item: str, name: str, settings: Settings) -> Group:
    ways = {name: SCORED, f"{name}, predicted": (*SCORED, *PREDICTED), f"{name}, provided": PROVIDED}
    return Group(FOLDER, item, SIDE, (*TRAINED, *settings), ways)


GROUPS: dict[str, Group] = {
    "a": _group("a", (), **{PLAIN: SCORED, "A, restricted hard to what is provided": HARD}),
    "c": _conditioned("c", NAMED, NAMES),
    "c1": _conditioned("c1", "C1 names exchanged", (*TEXT, "model.text.table={permuted}")),
    "c2": _conditioned("c2", "C2 random embeddings", (*TEXT, "model.text.table={random}")),
    "c_all": _conditioned("c_all", "C, always all classes", (*NAMES, "distill.conditioning_mix=[1,0,0,0]")),
    "c_free": _conditioned("c_free", "C, logits not lowered", (*NAMES, "model.conditioning_penalty=false")),
    "cosine": _group("cosine", ("model.classifier=cosine",), **{"cosine head": SCORED}),
    "prior": _group("prior", (*PRIOR, "model.text.table={names}"), **{"cosine head, names": SCORED}),
    "prior_random": _group(
        "prior_random", (*PRIOR, "model.text.table={random}"), **{"cosine head, random embeddings": SCORED}
    ),
}
BANDS = {"1 to 4 images": (1, 4), "5 to 19": (5, 19), "20 and more": (20, 10**9)}  # a fold trains on some of them
SIZES = (None, 5, 10, 20)  # names on a menu; None = those on the image alone
MISSING = (0.0, 0.05, 0.1)  # share of the names on the image that the menu lacks
MODELS = {"a": (PLAIN, HARD), "c": (NAMED, PROVIDED)}


def table(bench: Bench) -> dict[str, Any]:
    """Compares those that are finished with the image-only model, also by how often a class is trained on."""
    return fold_table(bench, FOLDER, PLAIN, _bands(bench))


def menu(bench: Bench) -> dict[str, Any]:
    """The image-only model, restricted hard, and the one with names, for menus of several lengths."""
    found: dict[str, Any] = {}
    for missing in MISSING:
        for size in SIZES:
            names = {}
            for item, (model, how) in MODELS.items():
                kept = f"menu-{item}-{size or 'exact'}-{round(100 * missing)}"
                parts = [_scored(bench, item, model, how, size, missing, fold) for fold in range(FOLDS)]
                keep(FOLDER, kept, [part / "images.parquet" for part in parts])
                names[model] = {0: kept}
            key = f"{size or 'exact'}, {missing:g} missing"
            found[key] = compared(bench, FOLDER, names, {"names": (NAMED, PLAIN)}, folds=FOLDS).to_json()
    return found


def _scored(bench: Bench, item: str, model: str, how: Settings, size: int | None, missing: float, fold: int) -> Path:
    out = bench.work / f"scores-menu-{item}-{size or 'exact'}-{round(100 * missing)}-{fold}"
    if not (out / "metrics.json").exists():
        run = bench.work / f"folds-{FOLDER}-{item}" / "runs" / f"{slug(model).lower()}-seed0-fold{fold}"
        rows = held_out_fold(_data(bench, fold))
        lists = _menu_file(bench, size, missing)
        evaluate_rows(str(run), rows, out=str(out), provided=str(lists), overrides=[STUDENT, *how])
    return out


def _menu_file(bench: Bench, size: int | None, missing: float) -> Path:
    """A menu for each image: its classes, some of them missing, and wrong ones, half of them from the same source."""
    path = bench.work / f"menu-{size or 'exact'}-{round(100 * missing)}.tsv"
    if not path.exists():
        path.write_text("".join(_menus(bench, size, missing)), encoding="utf-8")
    return path


def _menus(bench: Bench, size: int | None, missing: float) -> Iterator[str]:
    uri = str(prepared_foodmix(bench))
    manifest = read_manifest(uri)
    rows = RowReader(uri, manifest, ["train", "val"]).columns(["image_id", "source", "ingredients"]).to_pylist()
    of_source: dict[str, set[int]] = {}
    for row in rows:
        of_source.setdefault(row["source"], set()).update(row["ingredients"])
    everything = set(range(1, len(manifest.classes)))
    for row in rows:
        rng = random.Random(f"{row['image_id']} {size} {missing}")
        present = set(row["ingredients"])
        listed = {index for index in present if rng.random() >= missing}
        wanted = 0 if size is None else max(0, size - len(listed))
        near = sorted(of_source[row["source"]] - present)
        listed |= set(rng.sample(near, min(len(near), wanted // 2)))
        rest = sorted(everything - present - listed)
        listed |= set(rng.sample(rest, max(0, wanted - len(listed - present))))
        yield f"{row['image_id']}\t{', '.join(manifest.classes[index] for index in sorted(listed))}\n"


def _bands(bench: Bench) -> dict[str, list[int]]:
    """Ids by the number of their training images."""
    images = read_manifest(str(prepared_foodmix(bench))).class_images(["train", "val"])
    return {
        name: [index for index, count in enumerate(images) if index and low <= count <= high]
        for name, (low, high) in BANDS.items()
    }


def _data(bench: Bench, fold: int) -> DataConfig:
    data = str(prepared_foodmix(bench))
    return DataConfig(uri=data, train_splits=("train", "val"), val_split=None, folds=FOLDS, held_out=fold)


ITEMS: list[Item] = [
    *((item, partial(fold_group, group=group)) for item, group in GROUPS.items()),
    ("table", table),
    ("menu", menu),
]
