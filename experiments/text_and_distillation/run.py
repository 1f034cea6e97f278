"""Do class names and self-distillation help at full size, and why? `python -m experiments text_and_distillation`."""

from pathlib import Path
from typing import Any

from experiments.foodmix import foodmix, prepared_foodmix
from experiments.foodmix_runs import (
    SEEDS,
    against_peer,
    difference,
    earlier_job,
    full_size_job,
    score,
    score_folder,
    scout_job,
    slug,
    train_plain,
    train_side_by_side,
    train_variant,
)
from experiments.item_queue import Bench, Item, ItemError, read_results
from experiments.text_and_distillation.name_maps import draw_name_maps
from experiments.text_and_distillation.why_variants import classes_of, conditioning_use_of, fit_of
from experiments.variants import (
    EARLIER_SCORED,
    PLAIN,
    PREDICTED,
    SCOUTED_VARIANTS,
    STUDENT,
    TEXT_VARIANTS,
    VOCABULARY,
    Settings,
)
from foodseg.classes import parse_id_lines
from foodseg.eval.evaluate import note_test_access

RESULTS = Path(__file__).with_name("results.json")
SEED = SEEDS[0]
# What a row is conditioned on; soft and hard restrict the class scores to the predicted classes.
CONDITIONINGS: dict[str, Settings] = {
    "vocabulary": VOCABULARY,
    "predicted": PREDICTED,
    "predicted, soft": (*PREDICTED, "eval.restrict=soft", "eval.restrict_lambda={lambda}"),
    "predicted, hard": (*PREDICTED, "eval.restrict=hard"),
    "provided (oracle)": ("eval.ingredients=provided",),
}
LAMBDAS = (0.1, 0.25, 0.5, 1.0)
CONTRASTS = {
    "text": ("C names", PLAIN),
    "meaning of text": ("C names", "C1 names permuted"),
    "distillation": ("D C and distillation", "C names"),
    "privilege": ("E D, teacher conditioned on the true classes", "D C and distillation"),
}
VAL_MEALS = ("hospital_trays__2001a", "indonesian_plates__s2_train_100", "canteen_leftovers__tray8_food_image")


def tests(bench: Bench) -> dict[str, Any]:
    """What is worked out by hand: masking, normalisation, the teacher, gradients, conditioning."""
    train = (f"tests/unit/train/test_{name}.py" for name in ("equal_gradients", "distillation", "conditioning", "ema"))
    losses, conditioning = "tests/unit/losses/test_distillation.py", "tests/unit/predict/test_predictor_conditioning.py"
    return bench.run_tests("tests/unit/models", losses, conditioning, *train)


def restrict(bench: Bench) -> dict[str, Any]:
    """The weight of restrict=soft, chosen on val with the scout that has class names."""
    run = train_variant(bench, *scout_job("score map", SCOUTED_VARIANTS["score map"]))
    soft = (*PREDICTED, "eval.restrict=soft")
    figures = {str(weight): score(bench, run, "val", STUDENT, *soft, f"eval.restrict_lambda={weight}")
               for weight in LAMBDAS}  # fmt: skip
    best = max(figures, key=lambda weight: figures[weight]["subsets"]["headline"]["miou"])
    return {"by_lambda": figures, "chosen": float(best)}


def variants(bench: Bench) -> dict[str, Any]:
    """Each variant on test compared with the peer, vocabulary, predicted, provided; and the differences."""
    chosen = read_results(RESULTS).get("restrict")
    if chosen is None:
        raise ItemError("the weight of restrict=soft is not chosen: run text_and_distillation/restrict first")
    weight = chosen["figures"]["chosen"]
    trained = train_side_by_side(bench, [full_size_job(*each) for each in TEXT_VARIANTS.items()])
    figures: dict[str, Any] = {}
    vocabulary_scores = {PLAIN: _scored(bench, train_plain(bench, SEED), VOCABULARY)}
    for name, run in zip(TEXT_VARIANTS, trained, strict=True):
        figures[f"{name}, seed {SEED}"] = row = {}
        for way, how in CONDITIONINGS.items():
            settings = tuple(setting.replace("{lambda}", str(weight)) for setting in how)
            row[way] = against_peer(bench, run, SEED, settings)
        vocabulary_scores[name] = _scored(bench, run, VOCABULARY)
    for name, (one, other) in CONTRASTS.items():
        figures[name] = {
            "variants": [one, other],
            **difference(bench, vocabulary_scores[one], vocabulary_scores[other]),
        }
    return figures


def reasons(bench: Bench) -> dict[str, Any]:
    """Reasons for the figures of `variants`: the fit, the classes that differ from A, the use of the conditioning."""
    headline = parse_id_lines((foodmix(bench) / "headline_classes.txt").read_text(encoding="utf-8"), "headline")
    plain = train_plain(bench, SEED)
    baseline = _scored(bench, plain, VOCABULARY)
    runs = {PLAIN: plain, "best recipe": train_variant(bench, *earlier_job(SEED))}
    runs |= {name: train_variant(bench, *full_size_job(name, TEXT_VARIANTS[name])) for name in TEXT_VARIANTS}
    figures: dict[str, Any] = {}
    for name, run in runs.items():
        scored = _scored(bench, run, EARLIER_SCORED if name == "best recipe" else VOCABULARY)
        figures[name] = {"losses": fit_of(run), **classes_of(scored, baseline, headline)}
        if name in TEXT_VARIANTS:
            note_test_access(str(bench.test_log), "opened", {"what": f"{run.name}: its use of the conditioning"})
            figures[name]["conditioning"] = conditioning_use_of(run, prepared_foodmix(bench), "test")
    return figures


def name_maps(bench: Bench) -> dict[str, Any]:
    """Score maps and attention for three meals of val with right, wrong and missing conditioning classes."""
    figures = {}
    for name in ("score map at stride 8", "cross attention at stride 8"):
        run = train_variant(bench, *scout_job(name, SCOUTED_VARIANTS[name]))
        out = bench.work / f"name-maps-{slug(name)}.png"
        found = draw_name_maps(run, foodmix(bench), VAL_MEALS, out)
        figures[name] = {"food_pixels_labelled_rightly": found, "image": out.name}
    return figures


ITEMS: list[Item] = [
    ("tests", tests),
    ("restrict", restrict),
    ("variants", variants),
    ("reasons", reasons),
    ("name_maps", name_maps),
]


def _scored(bench: Bench, run: Path, how: Settings) -> Path:
    score(bench, run, "test", STUDENT, *how)
    return score_folder(bench, run, "test", STUDENT, *how)
