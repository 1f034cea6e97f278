"""How much better is the best recipe than the peer at its best size? `python -m experiments against_peer`.

The peer is trained at 384 px. `rate` chooses its encoder's learning rate out of fold. Each other item is one training
with one seed, scored on test, whose counts are kept; `differences` compares them.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch

from experiments.counts import keep
from experiments.fold_runs import FOLDS
from experiments.foodmix import SUBSETS, foodmix, prepared_foodmix, scores_of, sets, subset_options, weights
from experiments.foodmix_runs import ONE_THREAD, SIDE_BY_SIDE, best_job, train_variant
from experiments.item_queue import HERE, Bench, Item, read_results
from experiments.plans import run_or_resume, small_recipe
from experiments.variants import BEST_SCORED, STUDENT, VIT
from foodseg.config.data import DataConfig
from foodseg.tune.fold_lists import read_folds

FOLDER = "against_peer"
SIDE, MIRRORED_SIDE = 384, 480  # the peer's best size; scales from 0.8 to 1.6 show things larger than 384 px does
RATES = (0.1, 0.3)
PUBLISHED_RATE = 0.1
RATE_SIDE, RATE_EPOCHS = 128, 11  # 517 updates of 380 images, 8 at a time
SEEDS = (0, 1, 2)
DECODERS = (
    "Unet", "UnetPlusPlus", "FPN", "PSPNet", "PAN", "Linknet", "MAnet", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
    "Segformer", "DPT",
)  # fmt: skip
VIT_SIDES = (224, 336, 392, 518)


def same_vit(bench: Bench) -> dict[str, Any]:
    """What each decoder of the peer's library says to the ViT-S/14: it cannot be given the encoder that ours has."""
    return {name: _tried(name) for name in DECODERS}


def _tried(name: str) -> str:
    try:
        model = getattr(smp, name)(f"tu-{VIT}", encoder_weights=None, classes=84).eval()
    except ValueError as error:
        return str(error)
    said = []
    for side in VIT_SIDES:
        try:
            with torch.no_grad():
                return f"{side} px: {tuple(model(torch.zeros(1, 3, side, side)).shape)}"
        except (AssertionError, RuntimeError) as error:
            said.append(f"{side} px: {error}")
    return "; ".join(said)


def rate(bench: Bench) -> dict[str, Any]:
    """The peer out of fold with both rates of its encoder: one seed, 128 px; the better one on headline classes."""
    lists = _fold_lists(bench)
    jobs = [(each, fold) for each in RATES for fold in range(FOLDS)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(lambda job: _train_fold(bench, *job, lists), jobs))
    uri = bench.work / "folds-peer-rate"
    tree = {
        "ablation": {
            "uri": str(uri),
            "folds": FOLDS,
            "subsets": [str(foodmix(bench) / f"{name}_classes.txt") for name in SUBSETS],
        },
        "variants": {
            _rate_name(each): {"predictions": str(_rate_folder(bench, each, "{fold}") / "predictions")}
            for each in RATES
        },
        "config": small_recipe(bench, RATE_SIDE),
    }
    found = run_or_resume(bench, "ablate", "folds-peer-rate", tree, uri / "ablation.yaml")["student"]
    scores = {each: found["variants"][_rate_name(each)]["headline"]["mean"] for each in RATES}
    return {"chosen": max(scores, key=lambda each: scores[each]), **found}


def peer(bench: Bench, seed: int) -> dict[str, Any]:
    """The peer as published, scored at its own size and, "mirrored", as our recipes are: larger and mirrored."""
    return _peer(bench, seed, PUBLISHED_RATE, {"peer": "predictions", "peer-mirrored": "predictions-mirrored"})


def tuned_peer(bench: Bench, seed: int) -> dict[str, Any]:
    """The peer with the rate that was chosen out of fold, scored as our recipes are."""
    chosen = read_results(HERE / FOLDER / "results.json")["rate"]["figures"]["chosen"]
    return _peer(bench, seed, chosen, {"peer-tuned": "predictions-mirrored"})


def earlier(bench: Bench, seed: int) -> dict[str, Any]:
    """The best recipe of 0.1.0: no ViT, 320 px, scored mirrored at 400 px."""
    run = train_variant(bench, *best_job(seed))
    return {"earlier": _scored(bench, "earlier", seed, (run, *sets(STUDENT, *BEST_SCORED)))}


def _rate_name(encoder_rate: float) -> str:
    return f"encoder rate x{encoder_rate:g}"


def _rate_folder(bench: Bench, encoder_rate: float, fold: object) -> Path:
    return bench.work / f"peer-{RATE_SIDE}-r{encoder_rate:g}-fold{fold}"


def _fold_lists(bench: Bench) -> Path:
    """Writes the images that are trained on without each fold, and those of the fold, for a program that is no part."""
    data = DataConfig(uri=str(prepared_foodmix(bench)), train_splits=("train", "val"), val_split=None)
    folder = bench.work / "fold-lists"
    folder.mkdir(exist_ok=True)
    folds = read_folds(data, FOLDS)
    for fold, held_out in enumerate(folds):
        rest = [image for other in folds if other is not held_out for image in other]
        (folder / f"test-{fold}.txt").write_text("\n".join(held_out) + "\n", encoding="utf-8")
        (folder / f"train-{fold}.txt").write_text("\n".join(rest) + "\n", encoding="utf-8")
    return folder


def _train_fold(bench: Bench, encoder_rate: float, fold: int, lists: Path) -> None:
    out = _rate_folder(bench, encoder_rate, fold)
    if not (out / "seconds.json").exists():
        given = ("--data", foodmix(bench), "--weights", weights(bench), "--seed", fold, "--side", RATE_SIDE)
        split = ("--train", lists / f"train-{fold}.txt", "--test", lists / f"test-{fold}.txt")
        how = ("--epochs", RATE_EPOCHS, "--encoder-rate", encoder_rate, "--threads", 1)
        bench.python("-m", "experiments.peer", *given, *split, *how, "--out", out, env=ONE_THREAD)


def _peer(bench: Bench, seed: int, encoder_rate: float, ways: dict[str, str]) -> dict[str, Any]:
    out = bench.work / f"peer-{SIDE}-r{encoder_rate:g}-{seed}"
    if not (out / "seconds.json").exists():  # the last thing that the peer writes
        given = ("--data", foodmix(bench), "--weights", weights(bench), "--seed", seed, "--side", SIDE)
        how = ("--encoder-rate", encoder_rate, "--test-side", MIRRORED_SIDE, "--threads", 1)
        bench.python("-m", "experiments.peer", *given, *how, "--out", out, env=ONE_THREAD)
    timing = json.loads((out / "seconds.json").read_text(encoding="utf-8"))
    return {
        "timing": timing,
        **{name: _scored(bench, name, seed, ("--predictions", out / maps)) for name, maps in ways.items()},
    }


def _scored(bench: Bench, name: str, seed: int, what: tuple[object, ...]) -> dict[str, Any]:
    """Opens test once for one run, and keeps its counts."""
    run = f"{name}-{seed}"
    out = bench.work / f"scores-test-{run}"
    if not (out / "metrics.json").exists():
        where = ("--data", prepared_foodmix(bench), "--split", "test", "--out", out, "--workers", 0)
        bench.foodseg("evaluate", *what, *where, *subset_options(bench), "--test-log", bench.test_log)
    keep(FOLDER, run, [out / "images.parquet"])
    return scores_of(json.loads((out / "metrics.json").read_text(encoding="utf-8")))


ITEMS: list[Item] = [
    ("same_vit", same_vit),
    ("rate", rate),
    *((f"peer_{seed}", partial(peer, seed=seed)) for seed in SEEDS),
    *((f"tuned_peer_{seed}", partial(tuned_peer, seed=seed)) for seed in SEEDS),
    *((f"earlier_{seed}", partial(earlier, seed=seed)) for seed in SEEDS),
]
