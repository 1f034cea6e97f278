"""Step 3, "Show it": ingredient text and self-distillation on real images, and whether they help."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from foodseg.bench.memory import PeakMemory
from foodseg.classes import parse_id_lines
from foodseg.train.ray_trainer import KEEP_MEMORY
from proof.name_maps import draw_name_maps
from proof.proof_queue import ROOT, Bench, Item, ItemError, read_evidence
from proof.step_1 import PARITY_STEPS, SEEDS, SUBSETS, foodmix, prepared_foodmix, run_tests, scores_of, sets, weights
from proof.why_variants import classes_of, conditioning_use_of, fit_of

EVIDENCE = ROOT / "evidence" / "step-3.json"
Job = tuple[str, tuple[str, ...], int]  # name, settings and updates of a training

# How each variant differs from the image-only one, A, which is ours of item `parity` (step 1); all start with the same
# backbone, decoder and classifier, and see the same images in the same order. {names} is a table of sentence embeddings
# (MiniLM, not CLIP), {permuted} the same with the names exchanged.
CONDITIONED = ("model.ingredient_head=true", "loss.ingredients=0.2", "model.text.kind=table")
SCORE_MAP = ("loss.score_map=0.4", *CONDITIONED)
TEXT = ("model.fusion=score_map", "model.fusion_stride=8", *SCORE_MAP)
NAMES = (*TEXT, "model.text.table={names}")
DISTILL = ("loss.distill=0.5", "loss.features=0.1")
VARIANTS: dict[str, tuple[str, ...]] = {
    "C names": NAMES,
    "C1 names permuted": (*TEXT, "model.text.table={permuted}"),
    "D C and distillation": (*NAMES, *DISTILL, "distill.teacher_conditioning=vocabulary"),
    "E D, teacher conditioned on the true classes": (*NAMES, *DISTILL, "distill.teacher_conditioning=present"),
}
# What a row is conditioned on; soft and hard restrict the class scores to the predicted classes.
VOCABULARY = ("eval.ingredients=vocabulary",)
CONDITIONINGS: dict[str, tuple[str, ...]] = {
    "vocabulary": VOCABULARY,
    "predicted": ("eval.ingredients=predicted",),
    "predicted, soft": ("eval.ingredients=predicted", "eval.restrict=soft", "eval.restrict_lambda={lambda}"),
    "predicted, hard": ("eval.ingredients=predicted", "eval.restrict=hard"),
    "provided (oracle)": ("eval.ingredients=provided",),
}
STUDENT = "eval.weights=student"
LAMBDAS = (0.1, 0.25, 0.5, 1.0)
CONTRASTS = {
    "text": ("C names", "A image only"),
    "meaning of text": ("C names", "C1 names permuted"),
    "distillation": ("D C and distillation", "C names"),
    "privilege": ("E D, teacher conditioned on the true classes", "D C and distillation"),
}

# What is tried at 128 px, trained on train and scored on val, before a recipe is fixed; one change at a time.
SCOUT_STEPS = 505  # 10 epochs of 404 images, 8 at a time
SCOUT = (
    "data.train_splits=[train]", f"train.steps={SCOUT_STEPS}", "train.ema_horizon=0.1", "train.checkpoint_every=101",
    "augment.longest_side=128", "augment.crop=128", "eval.longest_side=128", "scaling.num_workers=0",
)  # fmt: skip
# Two trainings side by side with a thread each get 1.3 times as much done as one after the other with two; freed memory
# stays with the process, as in Ray's workers.
SIDE_BY_SIDE = 2
ONE_THREAD = {"OMP_NUM_THREADS": "1", **KEEP_MEMORY}
# Distillation has its full weight from the first update on.
COST_STEPS = 40
COSTED = (
    f"train.steps={COST_STEPS}", "train.ema_horizon=0.1", "scaling.num_workers=0", "optim.warmup=0.0",
    "distill.ramp=0.0", f"train.checkpoint_every={COST_STEPS}",
)  # fmt: skip
CROSS_ATTENTION = ("model.fusion=cross_attention", *CONDITIONED, "model.text.table={names}")
RARE = ("data.repeat_threshold=0.1", "augment.class_aware=0.5")
SCOUTED: dict[str, tuple[str, ...]] = {
    "plain": (),
    "encoder lr x 0.3": ("optim.backbone_lr_factor=0.3",),
    "paste": ("augment.paste=0.5",),
    "repeat factors": RARE,
    "scale": ("augment.scale=[0.75, 2.0]",),
    "score map": ("model.fusion=score_map", *SCORE_MAP, "model.text.table={names}"),
    "score map at stride 8": NAMES,
    "cross attention at stride 8": (*CROSS_ATTENTION, "model.fusion_stride=8"),
    "distillation": DISTILL,
    "repeat factors, encoder lr x 0.3": (*RARE, "optim.backbone_lr_factor=0.3"),
    "repeat factors, encoder lr x 0.3, larger": (
        *RARE,
        "optim.backbone_lr_factor=0.3",
        "augment.longest_side=160",
        "augment.crop=144",
        "eval.longest_side=160",
    ),
    "repeat factors, encoder lr x 1": (*RARE, "optim.backbone_lr_factor=1.0"),
}
# The recipe for test, chosen by the figures of `scout` before test was first read.
BEST = (*RARE, "optim.backbone_lr_factor=0.3", "augment.longest_side=320", "augment.crop=288")
BEST_SCORED = ("eval.flip=true", "eval.longest_side=400")
VAL_MEALS = ("hospital_trays__2001a", "indonesian_plates__s2_train_100", "canteen_leftovers__tray8_food_image")


def method_tests(bench: Bench) -> dict[str, Any]:
    """What is worked out by hand: masking, normalisation, the teacher, gradients, conditioning."""
    train = (f"tests/unit/train/test_{name}.py" for name in ("equal_gradients", "distillation", "conditioning", "ema"))
    losses, conditioning = "tests/unit/losses/test_distillation.py", "tests/unit/predict/test_predictor_conditioning.py"
    return run_tests(bench, "tests/unit/models", losses, conditioning, *train)


def scout(bench: Bench) -> dict[str, Any]:
    """What each change does at 128 px on val; what is trained already is reused."""
    runs = train_side_by_side(bench, [scout_job(*each) for each in SCOUTED.items()])
    figures: dict[str, Any] = {}
    for (name, settings), run in zip(SCOUTED.items(), runs, strict=True):
        side = 160 if "eval.longest_side=160" in settings else 128
        # scales from 0.8 to 1.6 show things larger in training than they are at the image's own size
        larger = ("eval.flip=true", f"eval.longest_side={side * 5 // 4}")
        ways = {f"{side} px": VOCABULARY, f"{side * 5 // 4} px, mirrored": larger}
        scored = {way: score(bench, run, "val", STUDENT, *how) for way, how in ways.items()}
        figures[name] = {"settings": list(settings), **scored}
    return figures


def restrict(bench: Bench) -> dict[str, Any]:
    """The weight of restrict=soft, chosen on val with the scout that has class names."""
    run = train_variant(bench, *scout_job("score map", SCOUTED["score map"]))
    soft = ("eval.ingredients=predicted", "eval.restrict=soft")
    figures = {str(weight): score(bench, run, "val", STUDENT, *soft, f"eval.restrict_lambda={weight}")
               for weight in LAMBDAS}  # fmt: skip
    best = max(figures, key=lambda weight: figures[weight]["subsets"]["headline"]["miou"])
    return {"by_lambda": figures, "chosen": float(best)}


def best(bench: Bench) -> dict[str, Any]:
    """The best recipe and A on test compared with the peer of step 1, two seeds each."""
    trained = train_side_by_side(bench, [_best_job(seed) for seed in SEEDS])
    figures: dict[str, Any] = {}
    for seed, run in zip(SEEDS, trained, strict=True):
        figures[f"best recipe, seed {seed}"] = {"vocabulary": _against_peer(bench, run, seed, BEST_SCORED)}
        # what of the best recipe is in the scoring alone
        ways = {"vocabulary": VOCABULARY, "320 px, mirrored": ("eval.flip=true", "eval.longest_side=320")}
        ours = bench.work / f"ours-{seed}"
        figures[f"A image only, seed {seed}"] = {
            way: _against_peer(bench, ours, seed, how) for way, how in ways.items()
        }
    return figures


def variants(bench: Bench) -> dict[str, Any]:
    """Each variant on test compared with the peer of step 1, vocabulary, predicted, provided; and the differences."""
    chosen = read_evidence(EVIDENCE).get("restrict")
    if chosen is None:
        raise ItemError("the weight of restrict=soft is not chosen: run --only restrict first")
    weight, seed = chosen["figures"]["chosen"], SEEDS[0]
    trained = train_side_by_side(bench, [full_size_job(*each) for each in VARIANTS.items()])
    figures: dict[str, Any] = {}
    vocabulary_scores = {"A image only": score_folder(bench, bench.work / f"ours-{seed}", "test", STUDENT, *VOCABULARY)}
    for name, run in zip(VARIANTS, trained, strict=True):
        figures[f"{name}, seed {seed}"] = row = {}
        for way, how in CONDITIONINGS.items():
            settings = tuple(setting.replace("{lambda}", str(weight)) for setting in how)
            row[way] = _against_peer(bench, run, seed, settings)
        vocabulary_scores[name] = score_folder(bench, run, "test", STUDENT, *VOCABULARY)
    for name, (one, other) in CONTRASTS.items():
        figures[name] = {
            "variants": [one, other],
            **_difference(bench, vocabulary_scores[one], vocabulary_scores[other]),
        }
    return figures


def reasons(bench: Bench) -> dict[str, Any]:
    """Reasons for the figures of `variants`: the fit, the classes that differ from A, the use of the conditioning."""
    headline = parse_id_lines((foodmix(bench) / "headline_classes.txt").read_text(encoding="utf-8"), "headline")
    seed = SEEDS[0]
    baseline = score_folder(bench, bench.work / f"ours-{seed}", "test", STUDENT, *VOCABULARY)
    runs = {"A image only": bench.work / f"ours-{seed}", "best recipe": train_variant(bench, *_best_job(seed))}
    runs |= {name: train_variant(bench, *full_size_job(name, VARIANTS[name])) for name in VARIANTS}
    figures: dict[str, Any] = {}
    for name, run in runs.items():
        how = BEST_SCORED if name == "best recipe" else VOCABULARY
        scored = score_folder(bench, run, "test", STUDENT, *how)
        figures[name] = {"losses": fit_of(run), **classes_of(scored, baseline, headline)}
        if name in VARIANTS:
            figures[name]["conditioning"] = conditioning_use_of(run, Path(prepared_foodmix(bench)), "test")
    return figures


def name_maps(bench: Bench) -> dict[str, Any]:
    """Score maps and attention for three meals of val with right, wrong and missing conditioning classes."""
    figures = {}
    for name in ("score map at stride 8", "cross attention at stride 8"):
        run = train_variant(bench, *scout_job(name, SCOUTED[name]))
        out = bench.work / f"name-maps-{_slug(name)}.png"
        found = draw_name_maps(run, foodmix(bench), VAL_MEALS, out)
        figures[name] = {"food_pixels_labelled_rightly": found, "image": out.name}
    return figures


def cost(bench: Bench) -> dict[str, Any]:
    """Seconds of an update and peak memory of each variant in one process, and of the peer: idle machine, one thread.

    C1 and E do the same work as C and D, with other names and other conditioning.
    """
    peer = bench.work / "cost-peer"
    given = ("--data", foodmix(bench), "--weights", weights(bench), "--epochs", 1, "--threads", 1)
    with PeakMemory() as memory:
        bench.python("proof/peer.py", *given, "--out", peer, env=ONE_THREAD)
    timing = json.loads((peer / "seconds.json").read_text(encoding="utf-8"))
    seconds = timing["train_seconds"] / timing["updates"]
    figures: dict[str, Any] = {"peer": {"seconds": round(seconds, 3), "peak_mib": round(memory.largest / 2**20)}}
    working = {name: VARIANTS[name] for name in ("C names", "D C and distillation")}
    for name, settings in {"A image only": (), "best recipe": BEST, **working}.items():
        with PeakMemory() as memory:
            run = train_variant(bench, f"cost-{_slug(name)}", (*COSTED, *settings), COST_STEPS)
        own = seconds_an_update(run)
        figures[name] = {
            "seconds": round(own, 3), "times_peer": round(own / seconds, 3), "peak_mib": round(memory.largest / 2**20),
        }  # fmt: skip
    return figures


ITEMS: list[Item] = [
    ("method_tests", method_tests),
    ("scout", scout),
    ("restrict", restrict),
    ("best", best),
    ("variants", variants),
    ("reasons", reasons),
    ("name_maps", name_maps),
    ("cost", cost),
]


def tables(bench: Bench) -> dict[str, Path]:
    """Tables of one embedding per class name, made once: true, permuted, random."""
    made = {}
    for name, how in {"names": (), "permuted": ("--permute", 1), "random": ("--random",)}.items():
        made[name] = bench.work / f"{name}.safetensors"
        if not made[name].exists():
            bench.foodseg("data", "embed", prepared_foodmix(bench), made[name], *how)
    return made


def seconds_an_update(run: Path) -> float:
    """Returns the mean over a run of 8 images an update: the whole loop, as of the peer."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    # each line is about as many updates
    return float(np.mean([8 / line["images_per_second"] for line in lines if "images_per_second" in line]))


def train_variant(bench: Bench, name: str, settings: tuple[str, ...], steps: int) -> Path:
    """Trains or resumes a run of the recipe of proof/parity.yaml with other settings; returns its directory.

    Its name has a hash of the settings, so that a recipe that was changed is trained again.
    """
    run = bench.work / f"{name}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"
    last, begun = run / "last.json", (run / "config.yaml").exists()
    if not last.exists() or json.loads(last.read_text(encoding="utf-8"))["step"] < steps:
        where = (f"data.uri={prepared_foodmix(bench)}", f"run.uri={run}", f"model.weights={weights(bench)}")
        given = tuple(setting.format(**tables(bench)) if "{" in setting else setting for setting in settings)
        command = ["train", "--config", "proof/parity.yaml", *sets(*where, *given)]
        bench.foodseg(*command, *(["--resume"] if begun else []), env=ONE_THREAD)
    return run


def score(bench: Bench, run: Path, split: str, *settings: str) -> dict[str, Any]:
    """Scores a run with some settings of `eval`; a score that is there already is reused."""
    out = score_folder(bench, run, split, *settings)
    if not (out / "metrics.json").exists():
        where = ["--data", prepared_foodmix(bench), "--split", split, "--out", out, "--workers", 0]
        bench.foodseg("evaluate", run, *where, *_subsets(bench), *sets(*settings))
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    other = metrics.get("other_weights")
    averaged = {} if other is None else {other["weights"]: scores_of({**metrics, "scores": other["scores"]})}
    return {**scores_of(metrics), **averaged}


def scout_job(name: str, settings: tuple[str, ...]) -> Job:
    """A training at 128 px on train, to be scored on val."""
    return f"scout-{_slug(name)}", (*SCOUT, *settings), SCOUT_STEPS


def full_size_job(name: str, settings: tuple[str, ...], seed: int = SEEDS[0]) -> Job:
    """A training at the full size of step 1, scored on test; all variants see the same images in the same order."""
    own = () if seed == SEEDS[0] else (f"train.seed={seed}",)
    return f"variant-{_slug(name)}", ("scaling.num_workers=0", "train.ema_horizon=0.1", *own, *settings), PARITY_STEPS


def _best_job(seed: int) -> Job:
    return f"best-{seed}", ("scaling.num_workers=0", f"train.seed={seed}", "train.ema_horizon=0.1", *BEST), PARITY_STEPS


def train_side_by_side(bench: Bench, jobs: Sequence[Job]) -> list[Path]:
    tables(bench)
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        return list(pool.map(lambda job: train_variant(bench, *job), jobs))


def _against_peer(bench: Bench, run: Path, seed: int, how: tuple[str, ...]) -> dict[str, Any]:
    """Scores of a run on test, student's and averaged weights, and the student's less the peer's."""
    peer = bench.work / f"scores-peer-{seed}"
    if not (run / "last.json").exists() or not peer.exists():
        raise ItemError(f"{run.name} or {peer.name} is missing: run --only parity first")
    scores = score(bench, run, "test", STUDENT, *how)
    out = score_folder(bench, run, "test", STUDENT, *how)
    return {"scores": scores, "minus_peer": _difference(bench, out, peer)}


def _difference(bench: Bench, one: Path, other: Path) -> dict[str, Any]:
    found = bench.foodseg("evaluate", "--compare", one, other, *_subsets(bench))
    return {key: found[key] for key in ("miou", "subsets")}


def _subsets(bench: Bench) -> list[object]:
    return [word for name in SUBSETS for word in ("--subset", foodmix(bench) / f"{name}_classes.txt")]


def score_folder(bench: Bench, run: Path, split: str, *settings: str) -> Path:
    return bench.work / "-".join(["scores", run.name, split, *(setting.partition("=")[2] for setting in settings)])


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
