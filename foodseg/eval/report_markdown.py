"""Scores for people: a Markdown page for the run's folder and a short table for the terminal.

Path("report.md").write_text(scores_markdown(evaluation, "segmenter on foodmix test", {"checkpoint": uri}))
rich.print(scores_table(evaluation))
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from rich.markup import escape
from rich.table import Table

from foodseg.classes import BACKGROUND
from foodseg.eval.scores import Evaluation
from foodseg.metrics.confusion import Scores
from foodseg.metrics.ingredients import Detection, IngredientScores
from foodseg.metrics.per_image import Conditions
from foodseg.report.formatting import markdown_cell, percent


@dataclass(frozen=True)
class Headline:
    """One number of the summary. `value`: in [0, 1] or None; `over`: what the mean rests on, such as `19 ids`."""

    name: str
    value: float | None
    over: str
    meaning: str


def headlines(evaluation: Evaluation, condition: str | None = None) -> list[Headline]:
    """Returns the summary, most important first; all values are shares, shown in percent.

    Args:
        condition: of `condition_mark`; it is appended to every name, so that no number is quoted without it.
    """
    rows = _plain_headlines(evaluation)
    return rows if condition is None else [replace(row, name=f"{row.name} ({condition})") for row in rows]


def condition_mark(conditions: Conditions | None) -> str | None:
    """Returns how a score differs from one over the whole vocabulary, in a few words; None where it does not.

    Args:
        conditions: None for label maps from a folder.
    """
    if conditions is None:
        return None
    marks = []
    if conditions.ingredients == "provided":
        marks.append("provided, oracle" if conditions.is_oracle else "provided by lists")
    elif conditions.ingredients == "predicted":
        marks.append("predicted")
    if conditions.restrict != "none":
        marks.append(f"restrict {conditions.restrict}")
    if conditions.refine is not None:
        marks.append(f"refine {conditions.refine}")
    if conditions.recheck is not None:
        marks.append("rechecked")
    return ", ".join(marks) or None


def _plain_headlines(evaluation: Evaluation) -> list[Headline]:
    scores, boundary, food = evaluation.scores, evaluation.boundary, evaluation.ingredients
    present = [row.id for row in scores.classes if row.truth_pixels]
    union = [row.id for row in scores.classes if row.truth_pixels or row.predicted_pixels]
    ids, foreground = _counted(len(present), "id"), _counted(sum(index != BACKGROUND for index in present), "id")
    images, pairs = _counted(food.images, "image"), _counted(food.pairs, "pair")
    return [
        Headline("mIoU", scores.miou, ids, "mean IoU of the classes in the split, background included"),
        Headline("mIoU foreground", scores.miou_foreground, foreground, "the same without background"),
        Headline("mIoU union", scores.miou_union, _counted(len(union), "id"), "predicted but absent classes count 0"),
        Headline("boundary mIoU", boundary.miou, ids, "mean IoU of the outlines"),
        Headline("mAcc", scores.macc, ids, "mean recall of the classes"),
        Headline("aAcc", scores.aacc, "-", "share of the labelled pixels that are right"),
        *(
            Headline(f"mIoU {name}", subset.miou, _counted(subset.ids, "id"), f"mean IoU of the subset {name}")
            for name, subset in scores.subsets.items()
        ),
        Headline("ingredient F1", food.per_image.f1, images, "right ingredients found, wrong ones not"),
        Headline("share error", food.share_error, pairs, "mean error of the shares of the food"),
        *_confidence_headlines(evaluation),
    ]


def _confidence_headlines(evaluation: Evaluation) -> list[Headline]:
    found = evaluation.calibration
    if found is None:
        return []
    over = _counted(found.pixels, "pixel")
    left_out = "share wrong when the least confident fifth is left out"
    return [
        Headline("calibration error", found.ece, over, "confidence against share right, 15 bins"),
        Headline("AURC", found.aurc, over, "share wrong among the most confident, mean over all coverages"),
        Headline("risk at 80 % coverage", found.risk_at["0.8"], over, left_out),
    ]


def scores_markdown(evaluation: Evaluation, title: str, facts: Mapping[str, str], condition: str | None = None) -> str:
    """Returns a Markdown page: title, facts, the summary, confidences, every class, every ingredient.

    Scores are in percent with one decimal, `-` where there is nothing to score; `over` is what a mean rests on.

    Args:
        facts: what was scored on what, in the order to be shown: checkpoint, data, split, setting.
        condition: as in `headlines`.
    """
    lines = [f"# {title}", ""]
    if facts:
        lines += [*(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| score | % | over |", "|---|---:|---:|"]
    rows = headlines(evaluation, condition)
    lines += [f"| {markdown_cell(row.name)} | {percent(row.value)} | {row.over} |" for row in rows]
    for note in notes(evaluation):
        lines += ["", note]
    lines += ["", *_class_lines(evaluation), "", "## Ingredients", "", *_ingredient_lines(evaluation.ingredients)]
    return "\n".join(lines) + "\n"


def _class_lines(evaluation: Evaluation) -> list[str]:
    """A table of all classes, those with most truth pixels first."""
    classes, boundary = evaluation.scores.classes, evaluation.boundary.classes
    pixels = sum(row.truth_pixels for row in classes)
    lines = ["| id | class | IoU % | boundary IoU % | Acc % | pixels % |", "|---:|---|---:|---:|---:|---:|"]
    for row in sorted(classes, key=lambda row: (-row.truth_pixels, row.id)):
        numbers = (row.iou, boundary[row.id], row.acc, row.truth_pixels / pixels)
        lines.append(f"| {row.id} | {markdown_cell(row.name)} | {' | '.join(map(percent, numbers))} |")
    return lines


def _ingredient_lines(food: IngredientScores) -> list[str]:
    """What is on the images, in total and per ingredient that is on any."""
    lines = [
        f"An ingredient is on an image when it holds at least {100 * food.min_share:g} % of its labelled pixels. "
        "Share error: mean of |predicted - true| share of the food, in percentage points.",
        "",
        "| id | ingredient | images | precision % | recall % | F1 % | share error |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    totals = [("mean over images", food.per_image), ("all pairs", food.micro)]
    for name, found in totals:
        lines.append(f"| - | {name} | {food.images} | {_detection(found)} | {percent(food.share_error)} |")
    for row in sorted(food.classes, key=lambda row: (-row.truth, row.id)):
        if row.truth or row.predicted:
            scored = f"{_detection(row.detection)} | {percent(row.share_error)}"
            lines.append(f"| {row.id} | {markdown_cell(row.name)} | {row.truth} | {scored} |")
    return lines


def scores_table(evaluation: Evaluation, condition: str | None = None) -> Table:
    """Returns the summary (no classes) for `rich.print`: score, percent with one decimal, what a mean rests on.

    Args:
        condition: as in `headlines`.
    """
    table = Table("score")
    table.add_column("%", justify="right")
    table.add_column("over", justify="right")
    for row in headlines(evaluation, condition):
        table.add_row(escape(row.name), percent(row.value), row.over)
    return table


def notes(evaluation: Evaluation) -> list[str]:
    """Returns notes on the summary, one sentence each."""
    untrained = untrained_note(evaluation.scores)
    return [*([untrained] if untrained else []), f"Confidences: {evaluation.calibration_note}."]


def untrained_note(scores: Scores) -> str | None:
    """Says how many ids count 0 because they do not occur in the training data; None when that is not known."""
    if scores.untrained is None:
        return None
    return f"Ids with truth pixels that never occur in train, counted with IoU 0: {scores.untrained}."


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _detection(found: Detection) -> str:
    return " | ".join(percent(value) for value in (found.precision, found.recall, found.f1))
