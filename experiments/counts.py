"""Counts of images beside the results: what scores and intervals of any two runs are made of, measured in any session.

Trainings take hours and their folders are not part of the repository; the counts of a scored run are some kilobytes.

    keep("encoders", "hybrid", [scores / "images.parquet"])
    table = compared(bench, "encoders", {"both": {0: "hybrid"}, "one": {0: "lite0"}}, {"gain": ("both", "one")})
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.foodmix import SUBSETS, foodmix
from experiments.item_queue import HERE, Bench
from foodseg.classes import ClassTable
from foodseg.eval.scoring import read_subsets
from foodseg.metrics.per_image import CountsFacts, ImageCounts, read_image_counts, write_image_counts
from foodseg.tune.ablation import AblationTable, ablation_table
from foodseg.tune.run_cost import RunCost

RESAMPLES = 10_000


def counts_file(folder: str, name: str) -> Path:
    """Where the counts of a run are kept."""
    return HERE / folder / "counts" / f"{name}.parquet"


def keep(folder: str, name: str, parts: Sequence[Path]) -> None:
    """Keeps the counts of a run; those of several folds are united."""
    read = [read_image_counts(str(part)) for part in parts]
    facts: CountsFacts = read[0][1]
    # outlines are not compared, and take most of the space
    images = [
        ImageCounts(each.image_id, each.group_id, each.truth, each.prediction, each.count)
        for found, _ in read
        for each in found
    ]
    where = counts_file(folder, name)
    where.parent.mkdir(exist_ok=True)
    write_image_counts(str(where), images, facts.classes, facts.split, facts.data, facts.conditions)


def compared(
    bench: Bench,
    folder: str,
    variants: Mapping[str, Mapping[int, str]],
    contrasts: Mapping[str, tuple[str, str]],
    *,
    folds: int | None = None,
    costs: Mapping[str, RunCost] | None = None,
    subsets: Mapping[str, Sequence[int]] | None = None,
) -> AblationTable:
    """Scores variants by their kept counts: by variant and seed the name of a run; the rest as for `ablation_table`.

    subsets: in addition to those of foodmix.
    """
    runs: dict[str, dict[int, Sequence[ImageCounts]]] = {}
    for variant, seeds in variants.items():
        for seed, name in seeds.items():
            images, facts = read_image_counts(str(counts_file(folder, name)))
            runs.setdefault(variant, {})[seed] = images
    lists = [str(foodmix(bench) / f"{name}_classes.txt") for name in SUBSETS]
    named = {**read_subsets(lists, ClassTable(facts.classes)), **(subsets or {})}
    return ablation_table(
        runs, contrasts, len(facts.classes), subsets=named, resamples=RESAMPLES, folds=folds, costs=costs
    )
