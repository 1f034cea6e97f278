"""Do class names and self-distillation help over several seeds? `python -m experiments ablation`.

`ablation` trains all variants and the peer five times at 128 px for 4 epochs; `winner` compares what is best on val
with the plain recipe at full size.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experiments.foodmix import SUBSETS, class_embeddings, foodmix, prepared_foodmix, weights
from experiments.foodmix_runs import (
    ONE_THREAD,
    SIDE_BY_SIDE,
    Job,
    full_size_job,
    score,
    score_folder,
    scout_job,
    train_plain,
    train_side_by_side,
)
from experiments.item_queue import Bench, Item
from experiments.plans import run_or_resume, settings_of, small_recipe
from experiments.variants import (
    DISTILL,
    PLAIN,
    PREDICTED,
    STUDENT,
    TEXT,
    TEXT_VARIANTS,
    VOCABULARY,
    Settings,
)
from foodseg.data.shards import read_manifest
from foodseg.eval.scoring import read_subsets
from foodseg.metrics.per_image import ImageCounts, read_image_counts
from foodseg.tune.ablation import ablation_table

EPOCHS = 4
STEPS = EPOCHS * (475 // 8)  # of the 475 images of train and val, 8 at a time
SMALL = 128  # pixels; the classes can still be distinguished there (recipe/scout)
SEEDS = (0, 1, 2, 3, 4)
FULL_SEEDS = (0, 1)
PEER = "peer"
VARIANTS: dict[str, Settings] = {
    PLAIN: (),
    **TEXT_VARIANTS,
    "C2 random embeddings": (*TEXT, "model.text.table={random}"),
    "D0 A and distillation": DISTILL,
}
# Trained as C, and the same to the last digit: only its conditioning while it is scored differs.
ALSO_PREDICTED = {"C names, predicted": (*TEXT_VARIANTS["C names"], *PREDICTED)}
# What may become the default: all variants but the controls.
CANDIDATES = {name: settings for name, settings in VARIANTS.items() if not name.startswith(("C1", "C2"))}
# The scouts of variants.SCOUTED_VARIANTS that are these variants.
SCOUTS = {PLAIN: "plain", "C names": "score map at stride 8", "D0 A and distillation": "distillation"}
WAYS: dict[str, Settings] = {"vocabulary": VOCABULARY, "predicted": PREDICTED}
RESAMPLES = 10_000
CONTRASTS = {
    "A over the peer": (PLAIN, PEER),
    "meaning of text": ("C names", "C1 names permuted"),
    "conditioning machinery": ("C2 random embeddings", PLAIN),
    "text": ("C names", PLAIN),
    "image-level prediction": ("C names, predicted", "C names"),
    "text and image-level prediction": ("C names, predicted", PLAIN),
    "distillation without text": ("D0 A and distillation", PLAIN),
    "distillation with text": ("D C and distillation", "C names"),
    "privilege": ("E D, teacher conditioned on the true classes", "D C and distillation"),
    "text and distillation": ("D C and distillation", PLAIN),
    "everything": ("E D, teacher conditioned on the true classes", PLAIN),
}


def ablation(bench: Bench) -> dict[str, Any]:
    """All variants and the peer, five seeds each, small: means, deviations and intervals on test."""
    peers = bench.work / "peer-small-{seed}" / "predictions"
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(lambda seed: _train_small_peer(bench, Path(str(peers.parent).format(seed=seed)), seed), SEEDS))
    made = {name: str(path) for name, path in class_embeddings(bench).items()}
    variants: dict[str, Any] = {
        name: settings_of(words, made) for name, words in {**VARIANTS, **ALSO_PREDICTED}.items()
    }
    tree = {
        "ablation": {
            "uri": str(bench.work / "ablation"),
            "seeds": list(SEEDS),
            "split": "test",
            "subsets": [str(foodmix(bench) / f"{name}_classes.txt") for name in SUBSETS],
        },
        "variants": {**variants, PEER: {"predictions": str(peers)}},
        "contrasts": {name: list(pair) for name, pair in CONTRASTS.items()},
        "config": small_recipe(bench, SMALL, f"train.steps={STEPS}", "train.ema_horizon=0.1"),
    }
    begun = bench.work / "ablation" / "ablation.yaml"
    return run_or_resume(bench, "ablate", "ablation", tree, begun, "--test-log", bench.test_log)


def winner(bench: Bench) -> dict[str, Any]:
    """What is best on val at 128 px, and the best of those that are not A against A on test at full size."""
    scouts = train_side_by_side(bench, [_scout_job(name) for name in CANDIDATES])
    val = {
        (name, way): score(bench, run, "val", STUDENT, *WAYS[way])["miou"]
        for name, run in zip(CANDIDATES, scouts, strict=True)
        for way in _ways(name)
    }
    best, way = max(val, key=lambda key: val[key])
    other = max((key for key in val if key[0] != PLAIN), key=lambda key: val[key])[0]
    trained = train_side_by_side(bench, [full_size_job(other, VARIANTS[other], seed) for seed in FULL_SEEDS])
    # A kept no average
    sides = {PLAIN: [train_plain(bench, seed) for seed in FULL_SEEDS], other: trained}
    manifest = read_manifest(str(prepared_foodmix(bench)))
    subsets = read_subsets([str(foodmix(bench) / f"{name}_classes.txt") for name in SUBSETS], manifest.class_table)
    runs: dict[str, dict[int, list[ImageCounts]]] = {}
    for name, folders in sides.items():
        for way_of in _ways(name):
            for seed, run in zip(FULL_SEEDS, folders, strict=True):
                scored = score_folder(bench, run, "test", STUDENT, *WAYS[way_of])
                score(bench, run, "test", STUDENT, *WAYS[way_of])
                for weights_of, file in (("student", "images"), ("averaged", "images-ema")):
                    if name != PLAIN or weights_of == "student":
                        images = read_image_counts(str(scored / f"{file}.parquet"))[0]
                        runs.setdefault(f"{name}, {way_of}, {weights_of}", {})[seed] = images
    first = next(iter(runs))
    contrasts = {name: (name, first) for name in runs if name != first}
    table = ablation_table(runs, contrasts, len(manifest.classes), subsets=subsets, resamples=RESAMPLES)
    shown = {", ".join(key): miou for key, miou in val.items()}
    return {"val": shown, "best_on_val": f"{best}, {way}", "against_A": other, **table.to_json()}


ITEMS: list[Item] = [("ablation", ablation), ("winner", winner)]


def _ways(name: str) -> list[str]:
    """How a variant may be conditioned: one without class names not at all."""
    return list(WAYS) if name in TEXT_VARIANTS else ["vocabulary"]


def _scout_job(name: str) -> Job:
    """As the scouts of `recipe`, of which three are these variants."""
    return scout_job(SCOUTS.get(name, name), CANDIDATES[name])


def _train_small_peer(bench: Bench, out: Path, seed: int) -> None:
    if not (out / "seconds.json").exists():
        given = ("--data", foodmix(bench), "--weights", weights(bench), "--side", SMALL, "--epochs", EPOCHS)
        bench.python("-m", "experiments.peer", *given, "--threads", 1, "--seed", seed, "--out", out, env=ONE_THREAD)
