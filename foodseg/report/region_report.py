"""Reports of named regions: a Markdown page and an HTML page of the same tables.

storage.write_text(where, region_markdown("regions of foodmix test", facts, scores))
"""

from collections.abc import Mapping

from foodseg.metrics.regions import ClassF1, RegionScores
from foodseg.report.formatting import markdown_cell, percent
from foodseg.report.html_page import render_page


def region_markdown(title: str, facts: Mapping[str, str], scores: RegionScores) -> str:
    """Returns a Markdown page: facts, the summary, pairs, every class, those with most regions first."""
    lines = [f"# {title}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    lines += ["| score | % | over |", "|---|---:|---:|"]
    lines += [f"| {name} | {percent(value)} | {over} |" for name, value, over in headlines(scores)]
    if scores.pairs:
        lines += ["", "| confused pair | regions | F1 % |", "|---|---:|---:|"]
        lines += [
            f"| {markdown_cell(' / '.join(pair.names))} | {pair.regions} | {percent(pair.f1)} |"
            for pair in scores.pairs
        ]
    lines += ["", "| id | class | regions | precision % | recall % | F1 % |", "|---:|---|---:|---:|---:|---:|"]
    for each in by_regions(scores):
        numbers = " | ".join(map(percent, (each.precision, each.recall, each.f1)))
        lines.append(f"| {each.id} | {markdown_cell(each.name)} | {each.regions} | {numbers} |")
    return "\n".join(lines) + "\n"


def region_html(title: str, facts: Mapping[str, str], scores: RegionScores) -> str:
    """Returns the same as one HTML page that loads no other file."""
    return render_page(
        "regions.html.j2", title=title, facts=facts, cards=headlines(scores), pairs=scores.pairs,
        classes=by_regions(scores),
    )  # fmt: skip


def headlines(scores: RegionScores) -> list[tuple[str, float | None, str]]:
    """Returns name, value in [0, 1] and what it rests on of each number of the summary."""
    found = [
        ("macro F1", scores.macro_f1, f"{scores.counted} classes with at least {scores.least} regions"),
        ("top-1", scores.top1, f"{scores.regions:,} regions"),
    ]
    if scores.pairs:
        mean = sum(pair.f1 for pair in scores.pairs) / len(scores.pairs)
        found.append(("F1 of confused pairs", mean, f"{len(scores.pairs)} pairs"))
    return found


def by_regions(scores: RegionScores) -> list[ClassF1]:
    """Returns the classes, those with most regions first."""
    return sorted(scores.classes, key=lambda each: (-each.regions, each.id))
