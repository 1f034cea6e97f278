"""`report.html`: an evaluation as one page that loads nothing, for a screen, a phone and a printer.

page = Page("foodmix test", facts, evaluation, matrix, classes, manifest, worst, best)
storage.write_text(where, page_html(page))
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from markupsafe import Markup

from foodseg import storage
from foodseg.checkpoint.history import Validation
from foodseg.checkpoint.run_layout import run_of
from foodseg.classes import ClassTable
from foodseg.data.shards import Manifest
from foodseg.eval.examples import Example, colours
from foodseg.eval.report_markdown import headlines, untrained_note
from foodseg.eval.scores import Evaluation
from foodseg.metrics.ingredients import MIN_SHARE
from foodseg.prepare.findings import FINDINGS
from foodseg.report.charts import Line, line_chart, reliability_chart
from foodseg.report.html_page import render_page

CONFUSIONS = 15
CURVE_POINTS = 200


@dataclass(frozen=True)
class Page:
    """What the page shows.

    facts: what was scored on what, by name, in the order to be shown.
    matrix: (K, K) integers, rows truth, columns prediction, of ids of `classes`.
    manifest: of the data set that was scored.
    worst, best: images, as `examples.draw_example` made them.
    history: the validations of the training; empty for label maps from a folder.
    losses: (step, loss terms by name), as `read_losses` found them.
    condition: as in `headlines`.
    """

    title: str
    facts: Mapping[str, str]
    evaluation: Evaluation
    matrix: np.ndarray
    classes: ClassTable
    manifest: Manifest
    worst: Sequence[Example]
    best: Sequence[Example]
    history: Sequence[Validation] = ()
    losses: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    condition: str | None = None


@dataclass(frozen=True)
class Confusion:
    """`share` of the truth pixels of the id `truth`, namely `pixels`, were predicted as `prediction`."""

    truth: str
    prediction: str
    share: float
    pixels: int


@dataclass(frozen=True)
class ClassRow:
    """A class with truth pixels; `colour`: `#rrggbb`, `pixels`: its share of all truth pixels."""

    name: str
    colour: str
    iou: float
    boundary: float | None
    pixels: float


def page_html(page: Page) -> str:
    """Returns the page; every name in it is escaped."""
    evaluation, names = page.evaluation, page.classes.names
    palette = colours(page.classes)
    return render_page(
        "evaluation.html.j2",
        page=page,
        evaluation=evaluation,
        cards=headlines(evaluation, page.condition),
        untrained=untrained_note(evaluation.scores),
        classes=_class_rows(evaluation, palette),
        absent=[row.name for row in evaluation.scores.classes if not row.truth_pixels],
        confusions=confusion_pairs(page.matrix, names),
        training=_training_charts(page),
        confidence=_confidence_charts(evaluation),
        ingredients=sorted(evaluation.ingredients.classes, key=lambda row: (-row.truth, row.id)),
        legend=[(names[i], palette[i]) for i in np.flatnonzero(page.matrix.sum(0) + page.matrix.sum(1)) if i],
        splits=page.manifest.counts.items(),
        audit=_audit_rows(page.manifest),
    )


def confusion_pairs(matrix: np.ndarray, names: Sequence[str]) -> list[Confusion]:
    """Returns the CONFUSIONS worst pairs of a true and another predicted class, by share of the true class's pixels.

    True classes with less than MIN_SHARE of all labelled pixels are left out: else classes with a handful of pixels
    would come first.
    """
    truth = matrix.sum(1)
    shares = matrix / np.maximum(1, truth)[:, None]
    shares[truth < MIN_SHARE * matrix.sum()] = 0
    np.fill_diagonal(shares, 0)
    worst = np.argsort(-shares, axis=None, kind="stable")[:CONFUSIONS]
    pairs = [divmod(int(cell), len(names)) for cell in worst]
    return [Confusion(names[t], names[p], float(shares[t, p]), int(matrix[t, p])) for t, p in pairs if shares[t, p] > 0]


def read_losses(checkpoint_uri: str, step: int) -> dict[str, list[tuple[float, float]]]:
    """Reads the losses of a run up to `step` from the `log.jsonl` two folders above its checkpoint.

    Returns:
        By name the (step, loss) points, averaged to at most CURVE_POINTS; empty where there is no such log.
    """
    run = run_of(checkpoint_uri)
    where = storage.join(run, "log.jsonl") if run else ""
    if not where or not storage.exists(where):
        return {}
    found: dict[str, dict[int, float]] = {}
    for line in storage.read_text(where).splitlines():
        try:
            values = json.loads(line)
        except ValueError:  # a run that was killed may leave half a line
            continue
        for name, value in values.items():
            # a resumed run writes the steps after its checkpoint again: the later line counts
            if name.startswith("loss/") and values["step"] <= step:
                found.setdefault(name.removeprefix("loss/"), {})[values["step"]] = value
    return {name: _averaged(sorted(points.items())) for name, points in found.items()}


def _averaged(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // CURVE_POINTS)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(part[-1][0], sum(value for _, value in part) / len(part)) for part in parts]


def _training_charts(page: Page) -> list[Markup]:
    charts = []
    if page.losses:
        lines = [Line(name.replace("_", " "), points) for name, points in page.losses.items()]
        charts.append(line_chart("Training loss over steps", lines, x="step", y="loss"))
    if page.history:
        lines = [Line("student weights", [(entry.step, 100 * entry.miou_student) for entry in page.history])]
        averaged = [(entry.step, 100 * entry.miou_ema) for entry in page.history if entry.miou_ema is not None]
        if averaged:
            lines.append(Line("averaged weights", averaged))
        charts.append(line_chart("mIoU on val over steps", lines, x="step", y="mIoU on val, %"))
    return [Markup(chart) for chart in charts]


def _confidence_charts(evaluation: Evaluation) -> list[Markup]:
    found = evaluation.calibration
    if found is None:
        return []
    curve = [Line("risk", [(coverage, 100 * risk) for coverage, risk in found.risk_coverage])]
    risk_chart = line_chart("Risk over coverage", curve, x="coverage", y="wrong pixels, %", x_range=(0, 1))
    return [Markup(reliability_chart("Share right over confidence", found.bins)), Markup(risk_chart)]


def _audit_rows(manifest: Manifest) -> list[tuple[str, str, int]]:
    """Returns the findings of the audit: a description, what was done with the records, how many there were."""
    known = [(FINDINGS[name].text, FINDINGS[name].effect, n) for name, n in manifest.audit.items() if name in FINDINGS]
    return known + [(name, "", count) for name, count in manifest.audit.items() if name not in FINDINGS]


def _class_rows(evaluation: Evaluation, palette: Sequence[str]) -> list[ClassRow]:
    """The classes with truth pixels, best IoU first."""
    total = sum(row.truth_pixels for row in evaluation.scores.classes)
    rows = [
        ClassRow(row.name, palette[row.id], row.iou, evaluation.boundary.classes[row.id], row.truth_pixels / total)
        for row in evaluation.scores.classes
        if row.iou is not None
    ]
    return sorted(rows, key=lambda row: (-row.iou, row.name))
