"""Variants compared out of fold: trained on four fifths of the training images, scored on the fifth that is left out.

Test has been read often and `val` has 71 images; neither can choose a recipe. Five folds of all 475 training images by
near-duplicate group give every image a score by a model that has not seen it (`foodseg ablate`, ablation.folds).

    ITEMS = [("frozen", partial(fold_group, group=Group("encoders", "frozen", 192, SETTINGS, {"ViT, frozen": ()})))]

The counts of each variant are kept with the results (`counts.py`), so that variants of other days are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.counts import compared, keep
from experiments.foodmix import SUBSETS, foodmix
from experiments.foodmix_runs import slug, with_files
from experiments.item_queue import HERE, Bench, read_results
from experiments.plans import run_or_resume, settings_of, small_recipe
from experiments.variants import Settings
from foodseg.tune.ablation_runs import run_name
from foodseg.tune.run_cost import RunCost

FOLDS = 5
KINDS = {"student": "images", "ema": "images-ema"}


@dataclass(frozen=True)
class Group:
    """Variants that share their trainings, since they differ in how they are scored alone.

    Attributes:
        folder: of experiments/.
        side: pixels of the longer side, and of crops.
        settings: of the training, in addition to those of the peer's recipe; {vit} is the file of the ViT's weights,
            {names}, {permuted} and {random} are tables of class embeddings, {work} is the folder of all runs.
        variants: by name the settings of `eval`.
    """

    folder: str
    name: str
    side: int
    settings: Settings
    variants: Mapping[str, Settings]


def fold_group(bench: Bench, group: Group, paths: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Trains and scores a group, and keeps its counts; returns scores, seconds an update and memory of each variant.

    paths: what other words in braces stand for.
    """
    uri = bench.work / f"folds-{group.folder}-{slug(group.name)}"
    given = with_files(bench, group.settings, work=bench.work, **(paths or {}))
    tree = {
        "ablation": {
            "uri": str(uri),
            "folds": FOLDS,
            "subsets": [str(foodmix(bench) / f"{name}_classes.txt") for name in SUBSETS],
            "concurrent": 1,
        },
        "variants": {name: settings_of(settings, {}) for name, settings in group.variants.items()},
        "config": small_recipe(bench, group.side, *given),
    }
    name = f"{group.folder}-{slug(group.name)}"
    found = run_or_resume(bench, "ablate", name, tree, uri / "ablation.yaml")
    for variant in group.variants:
        for kind, file in KINDS.items():
            keep(group.folder, kept_name(variant, kind), _score_files(uri, variant, file))
    return {"settings": list(group.settings), "side": group.side, **{kind: found[kind] for kind in KINDS}}


def fold_table(
    bench: Bench,
    folder: str,
    plain: str,
    subsets: Mapping[str, Sequence[int]] | None = None,
    items: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Compares all variants that are recorded in a folder with the variant `plain`, by both kinds of weights.

    Args:
        subsets: in addition to those of foodmix. items: records that are compared; None = all that have variants.
        Holm's correction is for all variants together.
    """
    recorded = {item: part["figures"] for item, part in read_results(HERE / folder / "results.json").items()}
    wanted = [item for item in recorded if (items is None or item in items) and "settings" in recorded[item]]
    done = {item: list(recorded[item]["student"]["variants"]) for item in wanted}
    names = [name for variants in done.values() for name in variants]
    figures = {}
    for kind in KINDS:
        costs = {
            name: RunCost(**recorded[item][kind]["costs"][name]) for item, variants in done.items() for name in variants
        }
        kept = {name: {0: kept_name(name, kind)} for name in names}
        contrasts = {name: (name, plain) for name in names if name != plain}
        figures[kind] = compared(bench, folder, kept, contrasts, folds=FOLDS, costs=costs, subsets=subsets).to_json()
    return figures


def runs_of_folds(bench: Bench, folder: str, item: str, name: str) -> list[Path]:
    """Where the trainings of a variant of another group are, each without one fold."""
    runs = bench.work / f"folds-{folder}-{item}" / "runs"
    return [runs / f"{slug(name).lower()}-seed0-fold{fold}" for fold in range(FOLDS)]


def kept_name(variant: str, kind: str) -> str:
    """Name of the kept counts of a variant; kind: student or ema."""
    return f"{slug(variant).lower()}-{kind}"


def _score_files(uri: Path, variant: str, file: str) -> list[Path]:
    return [uri / "scores" / run_name(variant, 0, fold) / f"{file}.parquet" for fold in range(FOLDS)]
