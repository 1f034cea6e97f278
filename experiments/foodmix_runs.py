"""Trained models that several experiments use: the peer, foodseg under the peer's recipe, and variants of that.

A run that is there is not trained again, and a score that is there is reused (`experiment-runs/`).
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from experiments.foodmix import (
    class_embeddings,
    foodmix,
    prepared_foodmix,
    scores_of,
    sets,
    subset_options,
    vit_weights,
    weights,
)
from experiments.item_queue import Bench, ItemError, write_json
from experiments.variants import EARLIER, STUDENT, Settings
from foodseg.bench.memory import PeakMemory
from foodseg.train.ray_trainer import KEEP_MEMORY

RECIPE = "experiments/peer_recipe.yaml"
STEPS = 1180  # train.steps of the recipe
SEEDS = (0, 1)
Job = tuple[str, Settings, int]  # name, settings and updates of a training

SCOUT_STEPS = 505  # 10 epochs of 404 images, 8 at a time
SCOUT = (
    "data.train_splits=[train]", f"train.steps={SCOUT_STEPS}", "train.ema_horizon=0.1", "train.checkpoint_every=101",
    "augment.longest_side=128", "augment.crop=128", "eval.longest_side=128", "scaling.num_workers=0",
)  # fmt: skip
# Two trainings side by side with a thread each get 1.3 times as much done as one after the other with two; freed memory
# stays with the process, as in Ray's workers.
SIDE_BY_SIDE = 2
ONE_THREAD = {"OMP_NUM_THREADS": "1", **KEEP_MEMORY}


def train_peer(bench: Bench, seed: int) -> dict[str, Any]:
    """Trains the peer and labels the test images; returns its seconds."""
    out = bench.work / f"peer-{seed}"
    if not (out / "seconds.json").exists():  # the last thing that the peer writes
        given = ("--data", foodmix(bench), "--weights", weights(bench), "--seed", seed)
        bench.python("-m", "experiments.peer", *given, "--out", out)
    return json.loads((out / "seconds.json").read_text(encoding="utf-8"))


def score_peer(bench: Bench, seed: int) -> Path:
    """Returns the folder of the peer's scores on test."""
    train_peer(bench, seed)
    out = bench.work / f"scores-peer-{seed}"
    if not (out / "metrics.json").exists():
        what = ("--predictions", bench.work / f"peer-{seed}" / "predictions")
        _evaluate(bench, what, "test", out)
    return out


def train_plain(bench: Bench, seed: int) -> Path:
    """Trains or resumes foodseg under the peer's recipe; returns the run's directory.

    Its seconds over all attempts of this queue are kept in a file next to it.
    """
    out = bench.work / f"ours-{seed}"
    if not _trained(out, STEPS):
        data, timing, resumed = prepared_foodmix(bench), plain_seconds_file(out), (out / "config.yaml").exists()
        settings = sets(f"train.seed={seed}", f"data.uri={data}", f"run.uri={out}", f"model.weights={weights(bench)}")
        command = ["train", "--config", RECIPE, *settings, *(["--resume"] if resumed else [])]
        _measured(timing, resumed, lambda: bench.foodseg(*command))
        if not _trained(out, STEPS):
            raise ItemError(f"{out.name} was not trained to its end")
    return out


def plain_seconds_file(run: Path) -> Path:
    """Where the seconds of a run of `train_plain` are."""
    return run.with_name(f"{run.name}-seconds.json")


def train_variant(bench: Bench, name: str, settings: Settings, steps: int) -> Path:
    """Trains or resumes a run of the recipe with other settings; returns its directory.

    Its name has a hash of the settings, so that a variant that was changed is trained again.
    """
    run = variant_run(bench, name, settings)
    begun = (run / "config.yaml").exists()
    if not _trained(run, steps):
        where = (f"data.uri={prepared_foodmix(bench)}", f"run.uri={run}", f"model.weights={weights(bench)}")
        command = ["train", "--config", RECIPE, *sets(*where, *with_files(bench, settings))]
        bench.foodseg(*command, *(["--resume"] if begun else []), env=ONE_THREAD)
    return run


def with_files(bench: Bench, settings: Settings, **files: object) -> list[str]:
    """Returns settings with the files that {vit}, {names}, {permuted}, {random} and `files` stand for."""
    known: dict[str, object] = {"vit": vit_weights(bench), **files}
    if any("model.text.table" in setting for setting in settings):
        known |= class_embeddings(bench)
    return [setting.format(**known) for setting in settings]


def variant_run(bench: Bench, name: str, settings: Settings) -> Path:
    """Where `train_variant` trains."""
    return bench.work / f"{name}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"


def train_side_by_side(bench: Bench, jobs: Sequence[Job]) -> list[Path]:
    """Trains or resumes several variants, two at a time; returns their directories."""
    class_embeddings(bench)  # made before the threads start
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return list(pool.map(lambda job: train_variant(bench, *job), jobs))


def scout_job(name: str, settings: Settings) -> Job:
    """A training at 128 px on train, to be scored on val."""
    return f"scout-{slug(name)}", (*SCOUT, *settings), SCOUT_STEPS


def full_size_job(name: str, settings: Settings, seed: int = SEEDS[0]) -> Job:
    """A training at the full size of the recipe, scored on test; all see the same images in the same order."""
    own = () if seed == SEEDS[0] else (f"train.seed={seed}",)
    return f"variant-{slug(name)}", ("scaling.num_workers=0", "train.ema_horizon=0.1", *own, *settings), STEPS


def earlier_job(seed: int) -> Job:
    """The best recipe of 0.1.0, at its full size."""
    return recipe_job("earlier", EARLIER, seed)


def recipe_job(name: str, recipe: Settings, seed: int) -> Job:
    """A training of a whole recipe on train and val, to be scored on test."""
    return f"{name}-{seed}", ("scaling.num_workers=0", f"train.seed={seed}", "train.ema_horizon=0.1", *recipe), STEPS


def score(bench: Bench, run: Path, split: str, *settings: str) -> dict[str, Any]:
    """Scores a run with some settings of `eval`; a score that is there already is reused."""
    out = score_folder(bench, run, split, *settings)
    if not (out / "metrics.json").exists():
        _evaluate(bench, (run,), split, out, *sets(*settings))
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    other = metrics.get("other_weights")
    averaged = {} if other is None else {other["weights"]: scores_of({**metrics, "scores": other["scores"]})}
    return {**scores_of(metrics), **averaged}


def score_folder(bench: Bench, run: Path, split: str, *settings: str) -> Path:
    """Where `score` writes to."""
    return bench.work / "-".join(["scores", run.name, split, *(setting.partition("=")[2] for setting in settings)])


def against_peer(bench: Bench, run: Path, seed: int, how: Settings) -> dict[str, Any]:
    """Scores of a run on test, student's and averaged weights, and the student's less the peer's."""
    scores = score(bench, run, "test", STUDENT, *how)
    out = score_folder(bench, run, "test", STUDENT, *how)
    return {"scores": scores, "minus_peer": difference(bench, out, score_peer(bench, seed))}


def difference(bench: Bench, one: Path, other: Path) -> dict[str, Any]:
    """The interval of the difference of two evaluations, `one` minus `other`."""
    found = bench.foodseg("evaluate", "--compare", one, other, *subset_options(bench))
    return {key: found[key] for key in ("miou", "subsets")}


def update_cost(bench: Bench, name: str, settings: Settings, steps: int) -> dict[str, float]:
    """Seconds of an update of 8 images and peak memory: one process, one thread; on an idle machine.

    Distillation has its full weight from the first update on.
    """
    costed = (
        f"train.steps={steps}", "train.ema_horizon=0.1", "scaling.num_workers=0", "optim.warmup=0.0",
        "distill.ramp=0.0", f"train.checkpoint_every={steps}",
    )  # fmt: skip
    class_embeddings(bench)  # made before the measurement, as the prepared images
    with PeakMemory() as memory:
        run = train_variant(bench, f"cost-{slug(name)}", (*costed, *settings), steps)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    # each line is about as many updates
    seconds = float(np.mean([8 / line["images_per_second"] for line in lines if "images_per_second" in line]))
    shutil.rmtree(run)  # a run that is there already would not be measured
    return {"seconds": round(seconds, 3), "peak_mib": round(memory.largest / 2**20)}


def peer_update_cost(bench: Bench, side: int) -> dict[str, float]:
    """As `update_cost`, of the peer: one epoch of it."""
    out = bench.work / f"cost-peer-{side}"
    shutil.rmtree(out, ignore_errors=True)  # a run that is there already would not be measured
    given = ("--data", foodmix(bench), "--weights", weights(bench), "--side", side, "--epochs", 1, "--threads", 1)
    with PeakMemory() as memory:
        bench.python("-m", "experiments.peer", *given, "--out", out, env=ONE_THREAD)
    timing = json.loads((out / "seconds.json").read_text(encoding="utf-8"))
    shutil.rmtree(out)
    return {
        "seconds": round(timing["train_seconds"] / timing["updates"], 3),
        "peak_mib": round(memory.largest / 2**20),
    }


def slug(name: str) -> str:
    """A name as part of a folder's."""
    return name.replace(",", "").replace(" ", "-").replace("/", "-")


def _evaluate(bench: Bench, what: Sequence[object], split: str, out: Path, *options: object) -> None:
    where = ("--data", prepared_foodmix(bench), "--split", split, "--out", out, "--workers", 0)
    log = ("--test-log", bench.test_log) if split == "test" else ()
    bench.foodseg("evaluate", *what, *where, *subset_options(bench), *log, *options)


def _trained(run: Path, steps: int) -> bool:
    last = run / "last.json"
    return last.exists() and json.loads(last.read_text(encoding="utf-8"))["step"] >= steps


def _measured(timing: Path, resumed: bool, work: Callable[[], object]) -> None:
    """Adds the seconds of `work` to the file `timing`, also when it fails."""
    before = json.loads(timing.read_text(encoding="utf-8"))["train_seconds"] if resumed and timing.exists() else 0
    started = time.monotonic()
    try:
        work()
    finally:
        write_json(timing, {"train_seconds": round(before + time.monotonic() - started, 1), "resumed": resumed})
