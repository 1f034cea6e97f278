"""Tables of today's recipes: out of fold, on names that were held out, and on test against the peer at its best."""

from collections.abc import Callable
from typing import Any

from experiments.recorded import figures, interval, percent, recorded_items, source, table

SUBSETS = {"headline": "headline", "core": "core", "miou": "all"}


def encoders() -> str:
    return _compared("encoders", "Lite0")


def recipe_changes() -> str:
    return _compared("recipe_changes", "plain")


RECIPES = {
    "best": "best recipe",
    "best-scales": "best recipe, three scales",
    "cheap": "best cheap recipe",
    "earlier": "best recipe of 0.1.0",
    "peer": "peer, 384 px, as published",
    "peer-mirrored": "peer, 384 px, mirrored and at 480 px",
    "peer-scales": "peer, 384 px, mirrored and at three scales",
    "peer-tuned": "peer, 384 px, better rate, mirrored and at 480 px",
}


def against_peer() -> str:
    """Each recipe and the peer on test, the mean of the seeds that are recorded."""
    recorded = recorded_items("against_peer")
    rows, items = [], []
    for name, shown in RECIPES.items():
        of_seeds = {item: found[name] for item, found in recorded.items() if name in found}
        if not of_seeds:
            continue
        items += [item for item in of_seeds if item not in items]
        scores = [[one["subsets"][subset]["miou"] for one in of_seeds.values()] for subset in ("headline", "core")]
        scores.append([one["miou"] for one in of_seeds.values()])
        rows.append((shown, str(len(of_seeds)), *(percent(sum(each) / len(each)) for each in scores)))
    header = ("mIoU on test, 1,180 updates", ">seeds", ">headline", ">core", ">all")
    return f"{table(header, rows)}\n\n{source(*(f'against_peer/{item}' for item in items))}"


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
    made.__name__: made for made in (encoders, recipe_changes, against_peer, open_vocabulary, open_vocabulary_all_names)
}
