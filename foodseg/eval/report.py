"""Scores for people: a Markdown page for the run's folder and a short table for the terminal.

Path("report.md").write_text(scores_markdown(result, "segmenter on foodmix test", {"checkpoint": uri}))
rich.print(scores_table(result))
"""

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from foodseg.classes import BACKGROUND
from foodseg.metrics import Scores


def scores_markdown(scores: Scores, title: str, facts: Mapping[str, str]) -> str:
    """Returns a Markdown page: title, facts, the summary, then every class, those with most truth pixels first.

    Scores are in percent with one decimal, `-` where there is nothing to score; `ids` is how many ids a mean rests on.

    Args:
        facts: what was scored on what, in the order to be shown: checkpoint, data, split, setting.
    """
    lines = [f"# {title}", ""]
    if facts:
        lines += [*(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| score | % | ids |", "|---|---:|---:|"]
    lines += [f"| {markdown_cell(name)} | {percent(value)} | {ids} |" for name, value, ids in _summary(scores)]
    note = _untrained_note(scores)
    if note:
        lines += ["", note]

    pixels = sum(row.truth_pixels for row in scores.classes)
    lines += ["", "| id | class | IoU % | Acc % | pixels % |", "|---:|---|---:|---:|---:|"]
    for row in sorted(scores.classes, key=lambda row: (-row.truth_pixels, row.id)):
        share = percent(row.truth_pixels / pixels)
        lines.append(f"| {row.id} | {markdown_cell(row.name)} | {percent(row.iou)} | {percent(row.acc)} | {share} |")
    return "\n".join(lines) + "\n"


def scores_table(scores: Scores) -> Table:
    """Returns the summary (no classes) for `rich.print`: score, percent with one decimal, number of ids averaged."""
    table = Table("score", caption=_untrained_note(scores))
    table.add_column("%", justify="right")
    table.add_column("ids", justify="right")
    for name, value, ids in _summary(scores):
        table.add_row(escape(name), percent(value), ids)
    return table


def percent(value: float | None) -> str:
    """Returns a share in [0, 1] as percent with one decimal, `-` for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def markdown_cell(text: str) -> str:
    """Returns `text` fit for a cell of a Markdown table: class and subset names come from the user's files."""
    return text.replace("|", "\\|").replace("\n", " ")


def _summary(scores: Scores) -> list[tuple[str, float | None, str]]:
    """Returns (score, value in [0, 1], how many ids the mean rests on) per line of the summary."""
    present = [row.id for row in scores.classes if row.truth_pixels]
    union = [row.id for row in scores.classes if row.truth_pixels or row.predicted_pixels]
    foreground = [index for index in present if index != BACKGROUND]
    return [
        ("mIoU", scores.miou, str(len(present))),
        ("mIoU foreground", scores.miou_foreground, str(len(foreground))),
        ("mIoU union", scores.miou_union, str(len(union))),
        ("mAcc", scores.macc, str(len(present))),
        ("aAcc", scores.aacc, "-"),
        *((f"mIoU {name}", subset.miou, str(subset.ids)) for name, subset in scores.subsets.items()),
    ]


def _untrained_note(scores: Scores) -> str | None:
    """Says how many ids count 0 because training never showed them; None when that is not known."""
    if scores.untrained is None:
        return None
    return f"Ids with truth pixels that never occur in train, counted with IoU 0: {scores.untrained}."
