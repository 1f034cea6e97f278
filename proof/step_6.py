"""Step 6, "Show it": what stopping early saves and costs, the ablation of all variants, and faults."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from foodseg.data.shards import read_manifest
from foodseg.eval.evaluate import read_subsets
from foodseg.metrics.per_image import ImageCounts, read_image_counts
from foodseg.tune.ablation import ablation_table
from proof.proof_queue import ROOT, Bench, Item, ItemError
from proof.step_1 import (
    SUBSETS,
    foodmix,
    prepared_foodmix,
    run_tests,
    weights,
)
from proof.step_3 import (
    CONDITIONED,
    DISTILL,
    ONE_THREAD,
    SIDE_BY_SIDE,
    STUDENT,
    TEXT,
    VOCABULARY,
    Job,
    full_size_job,
    score,
    score_folder,
    scout_job,
    tables,
    train_side_by_side,
)
from proof.step_3 import VARIANTS as TEXT_VARIANTS

SMALL = 128  # pixels; the classes can still be distinguished there (item `scout` of step 3)
SWEEP_STEPS = 120
TRIALS = 16
GRACE = 0.2  # share of its steps that every trial may train
EPOCHS = 4
SMALL_STEPS = EPOCHS * (475 // 8)  # of the 475 images of train and val, 8 at a time
SEEDS = (0, 1, 2, 3, 4)
FULL_SEEDS = (0, 1)
PEER = "peer"
VARIANTS: dict[str, tuple[str, ...]] = {
    "A image only": (),
    **TEXT_VARIANTS,
    "C2 random embeddings": (*TEXT, "model.text.table={random}"),
    "D0 A and distillation": DISTILL,
}
# Trained as C, and the same to the last digit: only its conditioning while it is scored differs.
PREDICTED = {"C names, predicted": (*TEXT_VARIANTS["C names"], "eval.ingredients=predicted")}
# What may become the default: all variants but the controls.
CANDIDATES = {name: settings for name, settings in VARIANTS.items() if not name.startswith(("C1", "C2"))}
SCOUTS = {"A image only": "plain", "C names": "score map at stride 8", "D0 A and distillation": "distillation"}
WAYS: dict[str, tuple[str, ...]] = {"vocabulary": VOCABULARY, "predicted": ("eval.ingredients=predicted",)}
RESAMPLES = 10_000
CONTRASTS = {
    "A over the peer": ("A image only", PEER),
    "meaning of text": ("C names", "C1 names permuted"),
    "conditioning machinery": ("C2 random embeddings", "A image only"),
    "text": ("C names", "A image only"),
    "image-level prediction": ("C names, predicted", "C names"),
    "text and image-level prediction": ("C names, predicted", "A image only"),
    "distillation without text": ("D0 A and distillation", "A image only"),
    "distillation with text": ("D C and distillation", "C names"),
    "privilege": ("E D, teacher conditioned on the true classes", "D C and distillation"),
    "text and distillation": ("D C and distillation", "A image only"),
    "everything": ("E D, teacher conditioned on the true classes", "A image only"),
}


def sweep(bench: Bench) -> dict[str, Any]:
    """The same configurations with early stopping and to the end: what it saves, and whether it finds the best."""
    stopped, whole = _swept(bench, "asha"), _swept(bench, "none")
    early, full = (_rows(where) for where in (stopped, whole))
    best = max(full.values(), key=lambda row: row["miou"])
    chosen = json.loads((stopped / "result.json").read_text(encoding="utf-8"))["best"]["trial"]
    # how the order at the first rung agrees with that at the end
    first = {name: _at_share(row, GRACE) for name, row in full.items()}
    order = _rank_correlation([first[name] for name in full], [row["miou"] for row in full.values()])
    return {
        "trials": len(full),
        "finished_with_early_stopping": sum(row["status"] == "finished" for row in early.values()),
        "worker_seconds": {"asha": _seconds(early), "to_the_end": _seconds(full)},
        "share_of_worker_seconds": round(_seconds(early) / _seconds(full), 3),
        "updates": {"asha": _updates(early), "to_the_end": _updates(full)},
        "share_of_updates": round(_updates(early) / _updates(full), 3),
        "rank_correlation_of_the_first_validation": round(order, 3),
        "best_to_the_end": {"trial": best["trial"], "miou": best["miou"]},
        "chosen_by_asha": {"trial": chosen, "miou": full[chosen]["miou"]},
        "regret": round(best["miou"] - full[chosen]["miou"], 4),
        "scores_to_the_end": {name: row["miou"] for name, row in full.items()},
        "equal_where_both_finished": all(
            abs(row["miou"] - full[name]["miou"]) < 1e-6 for name, row in early.items() if row["status"] == "finished"
        ),
        "report": "proof-runs/sweep-asha/report.html",
    }


def best_again(bench: Bench) -> dict[str, Any]:
    """best.yaml, trained once more."""
    where = _swept(bench, "asha")
    best = json.loads((where / "result.json").read_text(encoding="utf-8"))["best"]
    run = where / "best"
    resume = ["--resume"] if (run / "config.yaml").exists() else []
    again = bench.foodseg("train", "--config", where / "best.yaml", *resume)
    difference = abs(again["miou"] - best["miou"])
    if difference > 1e-6:
        raise ItemError(f"best.yaml gives {again['miou']}, the sweep had {best['miou']}")
    return {"trial": best["trial"], "sweep": best["miou"], "again": again["miou"], "difference": difference}


def ablation(bench: Bench) -> dict[str, Any]:
    """All variants and the peer, five seeds each, small: means, deviations and intervals on test."""
    peers = bench.work / "peer-small-{seed}" / "predictions"
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(lambda seed: _train_small_peer(bench, Path(str(peers.parent).format(seed=seed)), seed), SEEDS))
    made = {name: str(path) for name, path in tables(bench).items()}
    variants: dict[str, Any] = {name: _settings(words, made) for name, words in {**VARIANTS, **PREDICTED}.items()}
    tree = {
        "ablation": {
            "uri": str(bench.work / "ablation"),
            "seeds": list(SEEDS),
            "split": "test",
            "subsets": [str(foodmix(bench) / f"{name}_classes.txt") for name in SUBSETS],
        },
        "variants": {**variants, PEER: {"predictions": str(peers)}},
        "contrasts": {name: list(pair) for name, pair in CONTRASTS.items()},
        "config": _recipe(bench, f"train.steps={SMALL_STEPS}", "train.ema_horizon=0.1", *_small(SMALL)),
    }
    return _ablated(bench, "ablation", tree)


def winner(bench: Bench) -> dict[str, Any]:
    """What is best on val at 128 px, and the best of those that are not A against A on test at step 1's full size."""
    plain = "A image only"
    scouts = train_side_by_side(bench, [_scout_job(name) for name in CANDIDATES])
    val = {
        (name, way): score(bench, run, "val", STUDENT, *WAYS[way])["miou"]
        for name, run in zip(CANDIDATES, scouts, strict=True)
        for way in _ways(name)
    }
    best, way = max(val, key=lambda key: val[key])
    other = max((key for key in val if key[0] != plain), key=lambda key: val[key])[0]
    trained = train_side_by_side(bench, [full_size_job(other, VARIANTS[other], seed) for seed in FULL_SEEDS])
    # A is that of step 1, which kept no average
    sides = {plain: [bench.work / f"ours-{seed}" for seed in FULL_SEEDS], other: trained}
    manifest = read_manifest(str(prepared_foodmix(bench)))
    subsets = read_subsets([str(foodmix(bench) / f"{name}_classes.txt") for name in SUBSETS], manifest.class_table)
    runs: dict[str, dict[int, list[ImageCounts]]] = {}
    for name, folders in sides.items():
        for way_of in _ways(name):
            for seed, run in zip(FULL_SEEDS, folders, strict=True):
                scored = score_folder(bench, run, "test", STUDENT, *WAYS[way_of])
                if name != plain and not (scored / "images-ema.parquet").exists():
                    # step 3 scored its run before the counts of the averaged weights were kept
                    (scored / "metrics.json").unlink(missing_ok=True)
                score(bench, run, "test", STUDENT, *WAYS[way_of])
                for weights_of, file in (("student", "images"), ("averaged", "images-ema")):
                    if name != plain or weights_of == "student":
                        images = read_image_counts(str(scored / f"{file}.parquet"))[0]
                        runs.setdefault(f"{name}, {way_of}, {weights_of}", {})[seed] = images
    first = next(iter(runs))
    contrasts = {name: (name, first) for name in runs if name != first}
    table = ablation_table(runs, contrasts, len(manifest.classes), subsets=subsets, resamples=RESAMPLES)
    shown = {", ".join(key): miou for key, miou in val.items()}
    return {"val": shown, "best_on_val": f"{best}, {way}", "against_A": other, **table.to_json()}


def sweep_faults(bench: Bench) -> dict[str, Any]:
    """Killed driver, killed worker, NaN, stopped trials that free their CPUs, an S3 server that is down."""
    return run_tests(
        bench,
        "tests/integration/test_ray_sweep.py",
        "tests/integration/test_sweep_killed.py",
        "tests/integration/test_sweep_faults.py",
    )


ITEMS: list[Item] = [
    ("sweep", sweep),
    ("best_again", best_again),
    ("ablation", ablation),
    ("winner", winner),
    ("sweep_faults", sweep_faults),
]


def _swept(bench: Bench, scheduler: str) -> Path:
    """Runs or resumes a sweep; random values, so that both schedulers try the same."""
    where = bench.work / f"sweep-{scheduler}"
    if not (where / "result.json").exists():
        made = {name: str(path) for name, path in tables(bench).items()}
        names = {"model.text.table": made["names"]}
        conditioned = _settings(CONDITIONED, made)
        fusions = {
            "none": {},
            "score_map": {**_settings(TEXT, made), **names},
            "cross_attention": {"model.fusion": "cross_attention", **conditioned, **names},
            "film": {"model.fusion": "film", **conditioned, **names},
        }
        text = {"fusion": [name for name in fusions if name != "none"]}
        tree = {
            "sweep": {
                "uri": str(where), "searcher": "random", "seed": 6, "trials": TRIALS, "scheduler": scheduler,
                "grace": GRACE, "reduction": 3, "against": "parameters",
            },
            "space": {
                "fusion": {"options": fusions},
                "distill.conditioning_mix": {
                    "choice": [[1, 0, 0, 0], [0.5, 0.15, 0.2, 0.15], [0, 1, 0, 0]], "when": text,
                },
                "distillation": {
                    "options": {"nothing": {}, "logits": {}, "logits and features": {"loss.features": 0.1}},
                },
                "loss.distill": {"loguniform": [0.02, 1], "when": {"distillation": ["logits", "logits and features"]}},
                "distill.temperature": {"uniform": [1, 4], "when": {"distillation": ["logits", "logits and features"]}},
                "train.ema_horizon": {"loguniform": [0.02, 0.2]},
            },
            "config": _recipe(
                bench, f"train.steps={SWEEP_STEPS}", "data.train_splits=[train]", "data.val_split=val",
                "train.validate_every=24", "train.checkpoint_every=24", "eval.weights=ema", "train.ema_horizon=0.1",
                *_small(SMALL),
            ),
        }  # fmt: skip
        _run_or_resume(bench, "tune", f"sweep-{scheduler}", tree, where / "sweep.yaml", where / "result.json")
    return where


def _ablated(bench: Bench, name: str, tree: dict[str, Any]) -> dict[str, Any]:
    where = bench.work / name
    log = ROOT / "evidence" / "test_access.jsonl"
    return _run_or_resume(bench, "ablate", name, tree, where / "ablation.yaml", None, "--test-log", log)


def _run_or_resume(
    bench: Bench, verb: str, name: str, tree: dict[str, Any], begun: Path, result: Path | None, *words: object
) -> dict[str, Any]:
    """Runs `foodseg tune` or `foodseg ablate` on a file, or resumes it; its answer is kept in `result`."""
    path = bench.work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    resume = ["--resume"] if begun.exists() else []
    answer = bench.foodseg(verb, "--config", path, *resume, *words)
    if result is not None:
        result.write_text(json.dumps(answer), encoding="utf-8")
    return answer


def _recipe(bench: Bench, *settings: str) -> dict[str, Any]:
    """proof/parity.yaml with the data, the backbone's weights and other settings, one thread a run."""
    from foodseg.config import load_config

    where = (f"data.uri={prepared_foodmix(bench)}", f"model.weights={weights(bench)}", "scaling.num_workers=0")
    return load_config(str(ROOT / "proof" / "parity.yaml"), [*where, *settings]).config.model_dump(mode="json")


def _ways(name: str) -> list[str]:
    """How a variant may be conditioned: one without class names not at all."""
    return list(WAYS) if name in TEXT_VARIANTS else ["vocabulary"]


def _scout_job(name: str) -> Job:
    """As the scouts of step 3, of which three are these variants."""
    return scout_job(SCOUTS.get(name, name), CANDIDATES[name])


def _small(side: int) -> tuple[str, ...]:
    return (f"augment.longest_side={side}", f"augment.crop={side}", f"eval.longest_side={side}")


def _settings(words: tuple[str, ...], made: dict[str, str]) -> dict[str, Any]:
    """Returns the settings of a variant of step 3, which are `key=value` words, as a mapping."""
    given = (word.format(**made) if "{" in word else word for word in words)
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in given)}


def _train_small_peer(bench: Bench, out: Path, seed: int) -> None:
    if not (out / "seconds.json").exists():
        given = ("--data", foodmix(bench), "--weights", weights(bench), "--side", SMALL, "--epochs", EPOCHS)
        bench.python("proof/peer.py", *given, "--threads", 1, "--seed", seed, "--out", out, env=ONE_THREAD)


def _at_share(row: dict[str, Any], share: float) -> float:
    """The score of a trial at its first validation at or after a share of its steps."""
    curve = zip(row["curve_step"], row["curve_miou"], strict=True)
    return float(next(miou for step, miou in curve if step >= share * SWEEP_STEPS))


def _rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's, of values that differ from each other."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    matrix: np.ndarray = np.asarray(np.corrcoef(ranks))
    return float(matrix[0, 1])


def _rows(where: Path) -> dict[str, dict[str, Any]]:
    return {row["trial"]: row for row in pq.read_table(where / "trials.parquet").to_pylist()}


def _updates(rows: dict[str, dict[str, Any]]) -> int:
    """Updates up to the last validation of each trial."""
    return sum(row["curve_step"][-1] for row in rows.values())


def _seconds(rows: dict[str, dict[str, Any]]) -> float:
    return round(sum(row["seconds"] for row in rows.values()), 1)
