"""Step 3, "Show it": ingredient text and self-distillation on real pictures, and whether they help."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from foodseg.bench.memory import PeakMemory
from proof.name_maps import draw_name_maps
from proof.proof_queue import Bench, Item, ItemError
from proof.step_1 import PARITY_STEPS, SEEDS, SUBSETS, foodmix, prepared_foodmix, run_tests, scores_of, sets, weights

# How each arm differs from the image-only one; all start with the same backbone, decoder and classifier, and see the
# same pictures in the same order. {names} is a table of sentence vectors (MiniLM, not CLIP), {permuted} the same with
# the names exchanged, {random} one without meaning.
TOLD = ("model.ingredient_head=true", "loss.ingredients=0.2", "model.text.kind=table")
TEXT = ("model.fusion=score_map", "loss.score_map=0.4", *TOLD)
DISTILL = ("loss.distill=0.5", "loss.features=0.1")
ARMS: dict[str, tuple[str, ...]] = {
    "A image only": (),
    "C names": (*TEXT, "model.text.table={names}"),
    "C1 names permuted": (*TEXT, "model.text.table={permuted}"),
    "C2 random vectors": (*TEXT, "model.text.table={random}"),
    "D0 A and distillation": DISTILL,
    "D C and distillation": (*TEXT, "model.text.table={names}", *DISTILL, "distill.teacher_list=vocabulary"),
    "E D, the teacher told the truth": (*TEXT, "model.text.table={names}", *DISTILL, "distill.teacher_list=truth"),
}
TWO_SEEDS = ("A image only",)
CONTRASTS = {
    "meaning of text": ("C names", "C1 names permuted"),
    "conditioning machinery": ("C2 random vectors", "A image only"),
    "distillation": ("D C and distillation", "C names"),
    "privilege": ("E D, the teacher told the truth", "D C and distillation"),
}

# What is tried at 128 px, trained on train and scored on val, before a recipe is fixed; one change at a time.
SCOUT_STEPS = 1_010  # 20 epochs of 404 pictures, 8 at a time
SCOUT = (
    "data.train_splits=[train]", f"train.steps={SCOUT_STEPS}", "train.ema_horizon=0.1", "train.checkpoint_every=202",
    "augment.longest_side=128", "augment.crop=128", "eval.longest_side=128", "scaling.num_workers=0",
)  # fmt: skip
# The teacher has its say from the first update on.
COST_STEPS = 60
COSTED = (
    f"train.steps={COST_STEPS}", "train.ema_horizon=0.1", "scaling.num_workers=0", "optim.warmup=0.0",
    "distill.ramp=0.0", f"train.checkpoint_every={COST_STEPS}",
)  # fmt: skip
CROSS_ATTENTION = ("model.fusion=cross_attention", *TOLD, "model.text.table={names}")
SCOUTED: dict[str, tuple[str, ...]] = {
    "plain": (),
    "encoder lr x 0.3": ("optim.backbone_lr_factor=0.3",),
    "paste": ("augment.paste=0.5",),
    "repeat factors": ("data.repeat_threshold=0.1", "augment.class_aware=0.5"),
    "dice": ("loss.dice=0.5",),
    "scale": ("augment.scale=[0.75, 2.0]",),
    "score map": ARMS["C names"],
    "cross attention": CROSS_ATTENTION,
    "film": ("model.fusion=film", *TOLD, "model.text.table={names}"),
    "score map at stride 8": (*ARMS["C names"], "model.fusion_stride=8"),
    "cross attention at stride 8": (*CROSS_ATTENTION, "model.fusion_stride=8"),
    "distillation": DISTILL,
}
VAL_MEALS = ("hospital_trays__2001a", "indonesian_plates__s2_train_100", "canteen_leftovers__tray8_food_image")


def method_tests(bench: Bench) -> dict[str, Any]:
    """What is worked out by hand: masking, normalisation, the teacher, gradients, lists."""
    train = (f"tests/unit/train/test_{name}.py" for name in ("equal_gradients", "distillation", "told_names"))
    return run_tests(bench, "tests/unit/models", "tests/unit/distill", "tests/unit/predict/test_lists.py", *train)


def scout(bench: Bench) -> dict[str, Any]:
    """What each change does at 128 px on val; what is trained already is reused."""
    figures = {}
    for name, settings in SCOUTED.items():
        run = _scouted(bench, name)
        figures[name] = {"settings": list(settings), **score_all(bench, run, "val", settings)}
    return figures


def arms(bench: Bench) -> dict[str, Any]:
    """Each arm on test beside the peer of step 1, and what the differences between arms tell."""
    figures: dict[str, Any] = {}
    for name, settings in ARMS.items():
        for seed in SEEDS if name in TWO_SEEDS else SEEDS[:1]:
            run = _trained_arm(bench, name, seed)
            peer = bench.work / f"scores-peer-{seed}"
            if not peer.exists():
                raise ItemError(f"{peer.name} is missing: run --only parity first")
            kinds = {kind: _told(bench, run, kind) for kind in ("student", "ema")}
            figures[f"{name}, seed {seed}"] = {
                "scores": score_all(bench, run, "test", settings),
                "minus_peer": {kind: _difference(bench, out, peer) for kind, out in kinds.items()},
            }
    for name, (one, other) in CONTRASTS.items():
        sides = (_told(bench, _trained_arm(bench, arm, SEEDS[0]), "ema") for arm in (one, other))
        figures[name] = {"arms": [one, other], "ema": _difference(bench, *sides)}
    return figures


def name_maps(bench: Bench) -> dict[str, Any]:
    """Score maps and attention for three meals of val with right, wrong and missing lists."""
    figures = {}
    for name in ("score map at stride 8", "cross attention at stride 8"):
        run = _scouted(bench, name)
        out = bench.work / f"name-maps-{_slug(name)}.png"
        found = draw_name_maps(run, foodmix(bench), VAL_MEALS, out)
        figures[name] = {"food_pixels_labelled_rightly": found, "picture": out.name}
    return figures


def cost(bench: Bench) -> dict[str, Any]:
    """Seconds of an update and peak memory of each arm in one process, and of the peer, on an idle machine."""
    peer = bench.work / "cost-peer"
    given = ("--data", foodmix(bench), "--weights", weights(bench), "--epochs", 1)
    with PeakMemory() as memory:
        bench.python("proof/peer.py", *given, "--out", peer)
    timing = json.loads((peer / "seconds.json").read_text(encoding="utf-8"))
    seconds = timing["train_seconds"] / timing["updates"]
    figures: dict[str, Any] = {"peer": {"seconds": round(seconds, 3), "peak_mib": round(memory.largest / 2**20)}}
    for name, settings in ARMS.items():
        with PeakMemory() as memory:
            run = train_arm(bench, f"cost-{_slug(name)}", (*COSTED, *settings), COST_STEPS)
        lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        # the whole loop, as of the peer: each line is about as many updates
        own = float(np.mean([8 / line["images_per_second"] for line in lines if "images_per_second" in line]))
        figures[name] = {
            "seconds": round(own, 3), "times_peer": round(own / seconds, 3), "peak_mib": round(memory.largest / 2**20),
        }  # fmt: skip
    return figures


ITEMS: list[Item] = [
    ("method_tests", method_tests),
    ("scout", scout),
    ("arms", arms),
    ("name_maps", name_maps),
    ("cost", cost),
]


def tables(bench: Bench) -> dict[str, Path]:
    """Tables of one vector per name, made once: true, permuted, random."""
    made = {}
    for name, how in {"names": (), "permuted": ("--permute", 1), "random": ("--random",)}.items():
        made[name] = bench.work / f"{name}.safetensors"
        if not made[name].exists():
            bench.foodseg("data", "embed", prepared_foodmix(bench), made[name], *how)
    return made


def train_arm(bench: Bench, name: str, settings: tuple[str, ...], steps: int) -> Path:
    """Trains, or goes on with, a run of the recipe of proof/parity.yaml with other settings; returns its directory.

    Its name has a hash of the settings, so that a recipe that was changed is trained anew.
    """
    run = bench.work / f"{name}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}"
    last, begun = run / "last.json", (run / "config.yaml").exists()
    if not last.exists() or json.loads(last.read_text(encoding="utf-8"))["step"] < steps:
        where = (f"data.uri={prepared_foodmix(bench)}", f"run.uri={run}", f"model.weights={weights(bench)}")
        given = tuple(setting.format(**tables(bench)) if "{" in setting else setting for setting in settings)
        command = ["train", "--config", "proof/parity.yaml", *sets(*where, *given)]
        bench.foodseg(*command, *(["--resume"] if begun else []))
    return run


def score_all(bench: Bench, run: Path, split: str, settings: tuple[str, ...]) -> dict[str, Any]:
    """Scores student and EMA; with text also told which names the model guesses, and (an oracle) the true ones."""
    told = ("vocabulary", "predicted", "given") if "model.ingredient_head=true" in settings else ("vocabulary",)
    return {
        kind: {name: score(bench, run, split, f"eval.weights={kind}", f"eval.ingredients={name}") for name in told}
        for kind in ("student", "ema")
    }


def score(bench: Bench, run: Path, split: str, *settings: str) -> dict[str, Any]:
    """Scores a run with some settings of `eval`; a score that is there already is reused."""
    out = score_folder(bench, run, split, *settings)
    subsets = [word for name in SUBSETS for word in ("--subset", foodmix(bench) / f"{name}_classes.txt")]
    if not (out / "metrics.json").exists():
        where = ["--data", prepared_foodmix(bench), "--split", split, "--out", out, "--workers", 0]
        bench.foodseg("evaluate", run, *where, *subsets, *sets(*settings))
    return scores_of(json.loads((out / "metrics.json").read_text(encoding="utf-8")))


def _scouted(bench: Bench, name: str) -> Path:
    return train_arm(bench, f"scout-{_slug(name)}", (*SCOUT, *SCOUTED[name]), SCOUT_STEPS)


def _trained_arm(bench: Bench, name: str, seed: int) -> Path:
    settings = (f"train.seed={seed}", "train.ema_horizon=0.1", *ARMS[name])
    return train_arm(bench, f"arm-{_slug(name)}-{seed}", settings, PARITY_STEPS)


def _told(bench: Bench, run: Path, kind: str) -> Path:
    """Where the scores of a run that is told nothing are."""
    settings = (f"eval.weights={kind}", "eval.ingredients=vocabulary")
    score(bench, run, "test", *settings)
    return score_folder(bench, run, "test", *settings)


def _difference(bench: Bench, one: Path, other: Path) -> dict[str, Any]:
    subsets = [word for name in SUBSETS for word in ("--subset", foodmix(bench) / f"{name}_classes.txt")]
    found = bench.foodseg("evaluate", "--compare", one, other, *subsets)
    return {key: found[key] for key in ("miou", "subsets")}


def score_folder(bench: Bench, run: Path, split: str, *settings: str) -> Path:
    return bench.work / "-".join(["scores", run.name, split, *(setting.partition("=")[2] for setting in settings)])


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")
