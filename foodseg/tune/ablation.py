"""The table of an ablation: means over seeds, deviations, and 95 % intervals over images and seeds.

    table = ablation_table(scored, contrasts, classes, subsets=subsets, resamples=10_000)
    print(table_markdown(table, "Student weights"))

Seeds and near-duplicate groups are resampled together (`metrics/bootstrap.py`), the same ones for both variants of a
contrast. The p-values of the contrasts of a measure are corrected for their number (Holm). With only a handful of
seeds, the deviation over them is a better estimate of what another seed would give.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from foodseg.metrics.bootstrap import Draws, draw_scores, draw_seeds, holm, interval, p_value
from foodseg.metrics.confusion import subset_ids
from foodseg.metrics.per_image import ImageCounts
from foodseg.report.formatting import markdown_cell
from foodseg.tune.run_cost import RunCost

TITLES = {"student": "Student weights", "ema": "Averaged (EMA) weights"}
LEVEL = 0.05  # of the p-values below which a contrast has a star
Runs = Mapping[str, Mapping[int, Sequence[ImageCounts]]]
"""By variant and seed the counts of one run; with folds those of the runs of all folds, each image once."""


@dataclass(frozen=True)
class Spread:
    """`deviation` over seeds, None for one seed; `low` to `high`: the 95 % interval, None where there is no score."""

    deviation: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class VariantScore:
    """A measure of a variant: `mean` of its runs, None where one has no truth pixels; `seeds`: the value of each."""

    mean: float | None
    spread: Spread
    seeds: Mapping[int, float]

    def to_json(self) -> dict[str, object]:
        return {"mean": self.mean, **asdict(self.spread), "seeds": dict(self.seeds)}


@dataclass(frozen=True)
class ContrastScore:
    """A measure of a contrast.

    p: two-sided, by the bootstrap; p_holm: corrected for the number of contrasts; None where there is no score.
    significant: `p_holm` is below LEVEL, and it rests on several seeds, or on folds.
    """

    difference: float | None
    spread: Spread
    p: float | None
    p_holm: float | None
    significant: bool

    def to_json(self) -> dict[str, object]:
        facts = {"p": self.p, "p_holm": self.p_holm, "significant": self.significant}
        return {"difference": self.difference, **asdict(self.spread), **facts}


@dataclass(frozen=True)
class Contrast:
    """The first of two variants minus the second, over the `seeds` that both have; `scores` by measure."""

    variants: tuple[str, str]
    seeds: tuple[int, ...]
    scores: Mapping[str, ContrastScore]


@dataclass(frozen=True)
class AblationTable:
    """Variants by name, each with its scores by measure, and contrasts by name.

    The measures are "miou" and the names of the subsets. costs: by variant, of those that were trained.
    folds: each seed is so many trainings; None = one.
    """

    variants: Mapping[str, Mapping[str, VariantScore]]
    contrasts: Mapping[str, Contrast]
    images: int
    groups: int
    costs: Mapping[str, RunCost]
    folds: int | None

    def to_json(self) -> dict[str, object]:
        """Returns {"variants": {variant: {measure: ...}}, "contrasts": {name: {"variants", "seeds", measure: ...}}}.

        Further keys: "images", "groups", "folds", and "costs": {variant: {"seconds_per_update", "memory_mib"}}.
        """
        return {
            "variants": {
                variant: {name: score.to_json() for name, score in row.items()}
                for variant, row in self.variants.items()
            },
            "contrasts": {
                title: {
                    "variants": list(found.variants),
                    "seeds": list(found.seeds),
                    **{name: score.to_json() for name, score in found.scores.items()},
                }
                for title, found in self.contrasts.items()
            },
            "images": self.images,
            "groups": self.groups,
            "folds": self.folds,
            "costs": {variant: asdict(cost) for variant, cost in self.costs.items()},
        }


@dataclass(frozen=True)
class AblationResult:
    """What an ablation found on `split`, or on folds, as `split` says.

    ablation: its folder. failed: by run the reason. tables: by kind of weights, "student" and "ema".
    """

    ablation: str
    split: str
    failed: Mapping[str, str | None]
    tables: Mapping[str, AblationTable]

    def to_json(self) -> dict[str, object]:
        """Returns the content of table.json: each table under its kind of weights."""
        tables = {kind: table.to_json() for kind, table in self.tables.items()}
        return {"ablation": self.ablation, "split": self.split, "failed": dict(self.failed), **tables}


def ablation_table(
    runs: Runs,
    contrasts: Mapping[str, tuple[str, str]],
    classes: int,
    *,
    subsets: Mapping[str, Sequence[int]] | None = None,
    resamples: int,
    folds: int | None = None,
    costs: Mapping[str, RunCost] | None = None,
) -> AblationTable:
    """Scores the variants and their contrasts.

    A variant's score is the mean of its runs' mIoU, each taken from counts summed over all images. A contrast is taken
    over the seeds that both variants have.

    Args:
        classes: K. subsets: named lists of ids; id 0 is always added. resamples: draws of groups and seeds.
        folds: the runs of a seed, each on other images; with them one seed can be significant.
        costs: by variant.

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

    variants: dict[str, dict[str, VariantScore]] = {}
    for variant, of_variant in runs.items():
        observed, drawn = over_seeds(variant, list(of_variant))
        variants[variant] = {
            name: VariantScore(_mean(row), _spread(row, drawn[m]), dict(zip(of_variant, row.tolist(), strict=True)))
            for m, (name, row) in enumerate(zip(measures, observed, strict=True))
        }
    found: dict[str, tuple[tuple[int, ...], np.ndarray, np.ndarray]] = {}
    for title, (a, b) in contrasts.items():
        seeds = tuple(seed for seed in runs.get(a, {}) if seed in runs.get(b, {}))
        if seeds:
            (observed_a, drawn_a), (observed_b, drawn_b) = over_seeds(a, seeds), over_seeds(b, seeds)
            found[title] = seeds, observed_a - observed_b, drawn_a - drawn_b
    scored: dict[str, dict[str, ContrastScore]] = {title: {} for title in found}
    for m, name in enumerate(measures):
        p_values = {title: p_value(drawn[m]) for title, (_, _, drawn) in found.items()}
        known = {title: p for title, p in p_values.items() if p is not None}
        corrected = dict(zip(known, holm(list(known.values())), strict=True))
        for title, (seeds, observed, drawn) in found.items():
            p_holm = corrected.get(title)
            # one seed says nothing about others; that of folds is several trainings
            clear = p_holm is not None and p_holm < LEVEL and (len(seeds) > 1 or folds is not None)
            spread = _spread(observed[m], drawn[m])
            scored[title][name] = ContrastScore(_mean(observed[m]), spread, p_values[title], p_holm, clear)
    of_contrasts = {title: Contrast(contrasts[title], found[title][0], scored[title]) for title in found}
    return AblationTable(variants, of_contrasts, draws.images, draws.groups, costs or {}, folds)


def page_markdown(result: AblationResult) -> str:
    """Returns the page of an ablation: a table for each kind of weights, and the runs that failed.

    Its headings are those of a section, so that it can be pasted into a page of results.
    """
    parts = [f"## Ablation on {result.split}\n"]
    parts += [table_markdown(result.tables[kind], title) for kind, title in TITLES.items() if kind in result.tables]
    if result.failed:
        lines = (f"- {name}: {reason}" for name, reason in result.failed.items())
        parts.append("\n".join(["Runs that failed:", "", *lines]) + "\n")
    return "\n".join(parts)


def table_markdown(table: AblationTable, title: str) -> str:
    """Returns the table as Markdown: percent, in brackets the 95 % interval, a star at significant differences."""
    measures = list(next(iter(table.variants.values())))
    names = " | ".join(map(markdown_cell, ["mIoU", *measures[1:]]))
    rule = "|---|---:|" + "---:|" * len(measures)
    lines = [f"### {title}", "", f"| variant | seeds | {names} | s / update | MiB |", f"{rule}---:|---:|"]
    for variant, row in table.variants.items():
        cells = [_cell(row[m].mean, row[m].spread, "") for m in measures]
        cost = table.costs.get(variant)
        cells += ["-", "-"] if cost is None else [f"{cost.seconds_per_update:.3g}", f"{cost.memory_mib:.0f}"]
        lines.append(f"| {markdown_cell(variant)} | {len(row['miou'].seeds)} | {' | '.join(cells)} |")
    if table.contrasts:
        lines += ["", f"| contrast | seeds | {names} |", rule]
    for name, contrast in table.contrasts.items():
        scores = [contrast.scores[m] for m in measures]
        cells = [_cell(score.difference, score.spread, "+") + (" *" if score.significant else "") for score in scores]
        variants = " minus ".join(map(markdown_cell, contrast.variants))
        lines.append(f"| {markdown_cell(name)}: {variants} | {len(contrast.seeds)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", _explanation(table)]) + "\n"


def _explanation(table: AblationTable) -> str:
    several = ", over several seeds" if table.folds is None else ""
    seeds = (
        ""
        if table.folds is None
        else f"A seed is {table.folds} trainings: each is scored on the fold that it was trained without, and the "
        "counts of all folds are summed. So one seed is enough for a star. "
    )
    return (
        f"mIoU in percent, mean +- deviation over seeds, [95 % interval] over {table.groups} groups of {table.images} "
        f"images and over seeds; differences in percentage points; * where p < {LEVEL} after Holm's correction for the "
        f"{len(table.contrasts)} contrasts of a column{several}. {seeds}s / update and MiB: medians over the runs; "
        "validation and checkpoints are not in the seconds. Few seeds make an interval too narrow. Resamples may lack "
        "rare classes, so the interval of a variant's own mIoU may be above its mean, and that of a difference too far "
        "from 0."
    )


def _over_seeds(draws: Draws, columns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (M, S) the seeds' own scores, and (M, R) means over resampled groups and seeds."""
    drawn = draws.drawn[:, :, list(columns)]
    chosen = draw_seeds(len(columns), drawn.shape[1])
    return draws.observed[:, list(columns)], np.take_along_axis(drawn, chosen[None], axis=2).mean(axis=2)


def _mean(row: np.ndarray) -> float | None:
    return None if np.isnan(row).any() else float(row.mean())


def _spread(row: np.ndarray, drawn: np.ndarray) -> Spread:
    """The deviation of (S,) values over seeds, and the interval of (R,) resampled means."""
    found = None if np.isnan(row).any() else interval(drawn)
    low, high = (None, None) if found is None else found[:2]
    return Spread(float(row.std(ddof=1)) if len(row) > 1 and found else None, low, high)


def _cell(value: float | None, spread: Spread, sign: str) -> str:
    if value is None:
        return "-"
    if spread.low is None or spread.high is None:
        return f"{100 * value:{sign}.2f}"
    deviation = "" if spread.deviation is None else f" +- {100 * spread.deviation:.2f}"
    return f"{100 * value:{sign}.2f}{deviation} [{100 * spread.low:{sign}.2f}, {100 * spread.high:{sign}.2f}]"
