"""Tables of what was measured on what was held out: recipes by five folds of the training images, names by classes."""

from collections.abc import Callable
from typing import Any

from experiments.recorded import figures, interval, percent, source, table

SUBSETS = {"headline": "headline", "core": "core", "miou": "all"}


def encoders() -> str:
    return _compared("encoders", "Lite0")


def recipe_changes() -> str:
    return _compared("recipe_changes", "plain")


def open_vocabulary() -> str:
    """Names without training images against the other held-out ones, by ways from text to image."""
    found = figures("open_vocabulary", "unseen")
    ways = {name: way for name, way in found.items() if isinstance(way, dict) and "miou" in way}
    rows = [
        (
            name, percent(way["miou"]),
            f"{percent(min(way['draws']))} to {percent(max(way['draws']))}" if len(way["draws"]) > 1 else "-",
            percent(way["permuted names"]), f"{way['p']:.4f}",
        )
        for name, way in ways.items()
    ]  # fmt: skip
    header = ("from names to images", ">mIoU of held-out names", ">draws", ">names permuted", ">p")
    return f"{table(header, rows)}\n\n{source('open_vocabulary/unseen')}"


def open_vocabulary_all_names() -> str:
    """Names without training images where all names compete."""
    found = figures("open_vocabulary", "generalised")
    kinds = {"chosen": "chosen on another split", "shipped": "0.2, as shipped"}
    rows = [(shown, *map(percent, found[kind].values())) for kind, shown in kinds.items()]
    header = ("offset, all names compete", ">held out, mIoU", ">trained, mIoU", ">harmonic mean")
    return f"{table(header, rows)}\n\n{source('open_vocabulary/generalised')}"


def _compared(folder: str, plain: str) -> str:
    """Each variant of a folder's table with its difference to the plain one, by the student's weights."""
    found = figures(folder, "table")["student"]
    rows = [_row(found, name, plain) for name in found["variants"]]
    header = [
        f"mIoU out of fold, {found['images']} images",
        *(f">{shown}" for shown in SUBSETS.values()),
        *(f">{shown}, minus {plain}" for shown in SUBSETS.values()),
        ">s / update",
        ">MiB",
    ]
    return f"{table(header, rows)}\n\n{source(f'{folder}/table')}"


def _row(found: dict[str, Any], name: str, plain: str) -> tuple[str, ...]:
    scores = [percent(found["variants"][name][subset]["mean"]) for subset in SUBSETS]
    differences = ["-"] * len(SUBSETS)
    if name != plain:
        contrast = found["contrasts"][name]
        differences = [
            interval(contrast[subset]) + (" *" if contrast[subset]["significant"] else "") for subset in SUBSETS
        ]
    cost = found["costs"][name]
    return name, *scores, *differences, f"{cost['seconds_per_update']:.2f}", f"{cost['memory_mib']:,.0f}"


TABLES: dict[str, Callable[[], str]] = {
    made.__name__: made for made in (encoders, recipe_changes, open_vocabulary, open_vocabulary_all_names)
}
