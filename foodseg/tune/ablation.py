"""The table of an ablation: means over seeds, deviations, and 95 % intervals over images and seeds.

    table = ablation_table(scored, contrasts, classes, subsets=subsets, resamples=10_000)
    print(table_markdown(table, "Student weights"))

Seeds and near-duplicate groups are resampled together (`metrics/bootstrap.py`), the same ones for both variants of a
contrast. With only a handful of seeds, the deviation over them is a better estimate of what another seed would give.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from foodseg.metrics.bootstrap import Draws, draw_scores, draw_seeds, interval
from foodseg.metrics.confusion import subset_ids
from foodseg.metrics.per_image import ImageCounts
from foodseg.report.formatting import markdown_cell

TITLES = {"student": "Student weights", "ema": "Averaged (EMA) weights"}
Runs = Mapping[str, Mapping[int, Sequence[ImageCounts]]]
"""By variant and seed the counts of one run."""


def ablation_table(
    runs: Runs,
    contrasts: Mapping[str, tuple[str, str]],
    classes: int,
    *,
    subsets: Mapping[str, Sequence[int]] | None = None,
    resamples: int,
) -> dict[str, Any]:
    """Scores the variants and their contrasts.

    A variant's score is the mean of its runs' mIoU, each taken from counts summed over all images. A contrast is taken
    over the seeds that both variants have.

    Args:
        classes: K. subsets: named lists of ids; id 0 is always added. resamples: draws of groups and seeds.

    Returns:
        {"variants": {variant: {measure: {"mean", "deviation", "low", "high", "seeds": {seed: mIoU}}}},
        "contrasts": {name: {"variants", "seeds", measure: {"difference", "deviation", "low", "high", "significant"}}},
        "images", "groups"}; the measures are "miou" and the names of the subsets. A deviation of one seed is None.

    Raises:
        UserError: the images, their groups or their truth differ between runs.
    """
    measures = {"miou": list(range(classes))}
    measures |= {name: subset_ids(name, ids, classes) for name, ids in (subsets or {}).items()}
    keys = [(variant, seed) for variant, of_variant in runs.items() for seed in of_variant]
    sides = {f"{variant}, seed {seed}": runs[variant][seed] for variant, seed in keys}
    draws = draw_scores(sides, classes, list(measures.values()), resamples=resamples)
    column_of = {key: column for column, key in enumerate(keys)}

    def over_seeds(variant: str, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        return _over_seeds(draws, [column_of[variant, seed] for seed in seeds])

    variants: dict[str, Any] = {}
    for variant, of_variant in runs.items():
        observed, drawn = over_seeds(variant, list(of_variant))
        variants[variant] = {
            name: {
                "mean": _mean(row),
                **_spread(row, drawn[m]),
                "seeds": dict(zip(of_variant, row.tolist(), strict=True)),
            }
            for m, (name, row) in enumerate(zip(measures, observed, strict=True))
        }
    found: dict[str, Any] = {}
    for title, (a, b) in contrasts.items():
        seeds = [seed for seed in runs.get(a, {}) if seed in runs.get(b, {})]
        if not seeds:
            continue
        (observed_a, drawn_a), (observed_b, drawn_b) = over_seeds(a, seeds), over_seeds(b, seeds)
        observed, drawn = observed_a - observed_b, drawn_a - drawn_b
        found[title] = {"variants": [a, b], "seeds": seeds}
        for m, (name, row) in enumerate(zip(measures, observed, strict=True)):
            spread = _spread(row, drawn[m])
            low, high = spread["low"], spread["high"]
            # one seed says nothing about others
            clear = len(seeds) > 1 and low is not None and high is not None and (low > 0 or high < 0)
            found[title][name] = {"difference": _mean(row), **spread, "significant": clear}
    return {"variants": variants, "contrasts": found, "images": draws.images, "groups": draws.groups}


def page_markdown(result: Mapping[str, Any]) -> str:
    """Returns the page of an ablation: a table for each kind of weights, and the runs that failed."""
    parts = [f"# Ablation on {result['split']}\n"]
    parts += [table_markdown(result[kind], title) for kind, title in TITLES.items() if kind in result]
    if result["failed"]:
        lines = (f"- {name}: {reason}" for name, reason in result["failed"].items())
        parts.append("\n".join(["Runs that failed:", "", *lines]) + "\n")
    return "\n".join(parts)


def table_markdown(table: Mapping[str, Any], title: str) -> str:
    """Returns the table as Markdown: percent, in brackets the 95 % interval; a star where it leaves 0 out."""
    measures = list(next(iter(table["variants"].values())))
    names = ["mIoU", *measures[1:]]
    head = [f"| variant | seeds | {' | '.join(map(markdown_cell, names))} |", "|---|---:|" + "---:|" * len(names)]
    lines = [f"## {title}", "", *head]
    for variant, row in table["variants"].items():
        cells = [_cell(row[m]["mean"], row[m], "") for m in measures]
        lines.append(f"| {markdown_cell(variant)} | {len(row['miou']['seeds'])} | {' | '.join(cells)} |")
    if table["contrasts"]:
        lines += ["", head[0].replace("| variant |", "| contrast |"), head[1]]
    for name, row in table["contrasts"].items():
        cells = [_cell(row[m]["difference"], row[m], "+") + (" *" if row[m]["significant"] else "") for m in measures]
        variants = " minus ".join(map(markdown_cell, row["variants"]))
        lines.append(f"| {markdown_cell(name)}: {variants} | {len(row['seeds'])} | {' | '.join(cells)} |")
    lines += ["", f"mIoU in percent, mean +- deviation over seeds, [95 % interval] over {table['groups']} groups of "
              f"{table['images']} images and over seeds; differences in percentage points; * where the interval "
              "leaves 0 out. Few seeds make it too narrow. Resamples may lack rare classes, so the interval of a "
              "variant's own mIoU may be above its mean, and that of a difference too far from 0."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _over_seeds(draws: Draws, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (M, S) the seeds' own scores, and (M, R) means over resampled groups and seeds."""
    drawn = draws.drawn[:, :, list(columns)]
    chosen = draw_seeds(len(columns), drawn.shape[1])
    return draws.observed[:, list(columns)], np.take_along_axis(drawn, chosen[None], axis=2).mean(axis=2)


def _mean(row: np.ndarray) -> float | None:
    return None if np.isnan(row).any() else float(row.mean())


def _spread(row: np.ndarray, drawn: np.ndarray) -> dict[str, float | None]:
    """The deviation of (S,) values over seeds, and the interval of (R,) resampled means."""
    found = None if np.isnan(row).any() else interval(drawn)
    low, high = (None, None) if found is None else found[:2]
    return {"deviation": float(row.std(ddof=1)) if len(row) > 1 and found else None, "low": low, "high": high}


def _cell(value: float | None, spread: Mapping[str, Any], sign: str) -> str:
    if value is None:
        return "-"
    if spread["low"] is None:
        return f"{100 * value:{sign}.2f}"
    deviation = "" if spread["deviation"] is None else f" +- {100 * spread['deviation']:.2f}"
    return f"{100 * value:{sign}.2f}{deviation} [{100 * spread['low']:{sign}.2f}, {100 * spread['high']:{sign}.2f}]"
