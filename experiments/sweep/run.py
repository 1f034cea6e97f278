"""What does stopping trials early save, and does it still find the best? `python -m experiments sweep`."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from scipy.stats import spearmanr

from experiments.foodmix import class_embeddings
from experiments.item_queue import Bench, Item, ItemError
from experiments.plans import run_or_resume, settings_of, small_recipe
from experiments.variants import CONDITIONED, TEXT

SMALL = 128  # pixels
STEPS = 120
TRIALS = 16
GRACE = 0.2  # share of its steps that every trial may train


def sweep(bench: Bench) -> dict[str, Any]:
    """The same configurations with early stopping and to the end: what it saves, and whether it finds the best."""
    stopped, whole = _swept(bench, "asha"), _swept(bench, "none")
    early, full = (_rows(where) for where in (stopped, whole))
    best = max(full.values(), key=lambda row: row["miou"])
    chosen = json.loads((stopped / "result.json").read_text(encoding="utf-8"))["best"]["trial"]
    # how the order at the first rung agrees with that at the end
    first = {name: _at_share(row, GRACE) for name, row in full.items()}
    order = spearmanr([first[name] for name in full], [row["miou"] for row in full.values()]).statistic
    return {
        "trials": len(full),
        "finished_with_early_stopping": sum(row["status"] == "finished" for row in early.values()),
        "worker_seconds": {"asha": _seconds(early), "to_the_end": _seconds(full)},
        "share_of_worker_seconds": round(_seconds(early) / _seconds(full), 3),
        "updates": {"asha": _updates(early), "to_the_end": _updates(full)},
        "share_of_updates": round(_updates(early) / _updates(full), 3),
        "rank_correlation_of_the_first_validation": round(float(order), 3),
        "best_to_the_end": {"trial": best["trial"], "miou": best["miou"]},
        "chosen_by_asha": {"trial": chosen, "miou": full[chosen]["miou"]},
        "regret": round(best["miou"] - full[chosen]["miou"], 4),
        "scores_to_the_end": {name: row["miou"] for name, row in full.items()},
        "equal_where_both_finished": all(
            abs(row["miou"] - full[name]["miou"]) < 1e-6 for name, row in early.items() if row["status"] == "finished"
        ),
        "report": "experiment-runs/sweep-asha/report.html",
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


def faults(bench: Bench) -> dict[str, Any]:
    """Killed driver, killed worker, NaN, stopped trials that free their CPUs, an S3 server that is down."""
    return bench.run_tests(
        "tests/integration/test_ray_sweep.py",
        "tests/integration/test_sweep_killed.py",
        "tests/integration/test_sweep_faults.py",
    )


ITEMS: list[Item] = [("sweep", sweep), ("best_again", best_again), ("faults", faults)]


def _swept(bench: Bench, scheduler: str) -> Path:
    """Runs or resumes a sweep; random values, so that both schedulers try the same."""
    where = bench.work / f"sweep-{scheduler}"
    if not (where / "result.json").exists():
        made = {name: str(path) for name, path in class_embeddings(bench).items()}
        names = {"model.text.table": made["names"]}
        conditioned = settings_of(CONDITIONED, made)
        fusions = {
            "none": {},
            "score_map": {**settings_of(TEXT, made), **names},
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
            "config": small_recipe(
                bench, SMALL, f"train.steps={STEPS}", "data.train_splits=[train]", "data.val_split=val",
                "train.validate_every=24", "train.checkpoint_every=24", "eval.weights=ema", "train.ema_horizon=0.1",
            ),
        }  # fmt: skip
        answer = run_or_resume(bench, "tune", f"sweep-{scheduler}", tree, where / "sweep.yaml")
        (where / "result.json").write_text(json.dumps(answer), encoding="utf-8")
    return where


def _at_share(row: dict[str, Any], share: float) -> float:
    """The score of a trial at its first validation at or after a share of its steps."""
    curve = zip(row["curve_step"], row["curve_miou"], strict=True)
    return float(next(miou for step, miou in curve if step >= share * STEPS))


def _rows(where: Path) -> dict[str, dict[str, Any]]:
    return {row["trial"]: row for row in pq.read_table(where / "trials.parquet").to_pylist()}


def _updates(rows: dict[str, dict[str, Any]]) -> int:
    """Updates up to the last validation of each trial."""
    return sum(row["curve_step"][-1] for row in rows.values())


def _seconds(rows: dict[str, dict[str, Any]]) -> float:
    return round(sum(row["seconds"] for row in rows.values()), 1)
