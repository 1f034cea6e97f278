"""How much better is the best recipe than the peer at its best size? `python -m experiments against_peer`.

The peer is trained at 384 px. `rate` chooses its encoder's learning rate out of fold. Each other item is one training
with one seed, scored on test, whose counts are kept; `differences` compares them. `seconds` measures what an update
costs, on an idle machine.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch

from experiments.counts import compared, counts_file, keep
from experiments.fold_runs import FOLDS
from experiments.foodmix import SUBSETS, foodmix, prepared_foodmix, scores_of, sets, subset_options, weights
from experiments.foodmix_runs import ONE_THREAD, SIDE_BY_SIDE, peer_update_cost, recipe_job, train_variant, update_cost
from experiments.item_queue import HERE, Bench, Item, ItemError, read_results
from experiments.plans import run_or_resume, small_recipe
from experiments.variants import (
    BEST,
    BEST_SCORED,
    CHEAP,
    CHEAP_SCORED,
    EARLIER,
    EARLIER_SCORED,
    STUDENT,
    VIT,
    Settings,
)
from foodseg.config.data import DataConfig
from foodseg.tune.fold_lists import read_folds
from foodseg.tune.run_cost import RunCost, median_cost, run_cost

FOLDER = "against_peer"
SIDE, MIRRORED_SIDE = 384, 480  # the peer's best size; scales from 0.8 to 1.6 show things larger than 384 px does
RATES = (0.1, 0.3)
PUBLISHED_RATE = 0.1
RATE_SIDE, RATE_EPOCHS = 128, 11  # 517 updates of 380 images, 8 at a time
SEEDS = (0, 1, 2)
BATCH = 8
# Trained on train and val with 1,180 updates as the peer, and how each is scored.
RECIPES: dict[str, tuple[Settings, Settings]] = {
    "best": (BEST, BEST_SCORED),
    "cheap": (CHEAP, CHEAP_SCORED),
    "earlier": (EARLIER, EARLIER_SCORED),
}
CONTRASTS = {
    f"{name} minus {other}": (name, other)
    for name in ("best", "cheap")
    for other in ("peer", "peer-mirrored", "peer-tuned", "earlier")
}
COST_STEPS = 40
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
    if (chosen := _chosen_rate()) == PUBLISHED_RATE:
        return {"same as": f"peer_{seed}"}
    return _peer(bench, seed, chosen, {"peer-tuned": "predictions-mirrored"})


def recipe(bench: Bench, name: str, seed: int) -> dict[str, Any]:
    """A recipe of ours: "earlier", the best of 0.1.0, has no ViT."""
    settings, scored = RECIPES[name]
    run = train_variant(bench, *recipe_job(name, settings, seed))
    cost = run_cost(str(run), BATCH)
    assert cost is not None  # it has been trained
    return {"cost": asdict(cost), name: _scored(bench, name, seed, (run, *sets(STUDENT, *scored)))}


def differences(bench: Bench) -> dict[str, Any]:
    """Each of our recipes compared with each peer and with the earlier one, over all seeds: headline, core and all."""
    names = [*RECIPES, "peer", "peer-mirrored", *(["peer-tuned"] if _chosen_rate() != PUBLISHED_RATE else [])]
    kept = {name: {seed: f"{name}-{seed}" for seed in SEEDS} for name in names}
    missing = [run for runs in kept.values() for run in runs.values() if not counts_file(FOLDER, run).exists()]
    if missing:
        raise ItemError(f"not scored yet: {', '.join(missing)}")
    contrasts = {title: pair for title, pair in CONTRASTS.items() if set(pair) <= kept.keys()}
    recorded = read_results(HERE / FOLDER / "results.json")
    costs = {
        name: median_cost(RunCost(**recorded[f"{name}_{seed}"]["figures"]["cost"]) for seed in SEEDS)
        for name in RECIPES
    }
    return compared(
        bench, FOLDER, kept, contrasts, costs={name: cost for name, cost in costs.items() if cost}
    ).to_json()


def seconds(bench: Bench) -> dict[str, Any]:
    """Seconds of an update of 8 images and peak memory, one process with one thread, relative to the peer at 384 px."""
    figures = {"peer": peer_update_cost(bench, SIDE)}
    for name, (settings, _) in RECIPES.items():
        figures[name] = update_cost(bench, f"against-peer {name}", settings, COST_STEPS)
        figures[name]["times_peer"] = round(figures[name]["seconds"] / figures["peer"]["seconds"], 3)
    return figures


def _chosen_rate() -> float:
    return read_results(HERE / FOLDER / "results.json")["rate"]["figures"]["chosen"]


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
    *((f"{name}_{seed}", partial(recipe, name=name, seed=seed)) for name in RECIPES for seed in SEEDS),
    ("differences", differences),
    ("seconds", seconds),
]
