"""Reports of regions: the same numbers in Markdown and HTML, and names that are no markup."""

import re

import numpy as np

from foodseg.metrics.regions import RegionScores, region_scores
from foodseg.report.region_report import by_regions, headlines, region_html, region_markdown

NAMES = ("background", "rice | fried", "<b>egg</b>", "tofu & soy")
FACTS = {"scored": "runs/<i>roi</i>", "data": "meals, split val"}
COUNTS = np.array([[0, 0, 0, 0], [1, 6, 1, 0], [0, 2, 2, 0], [0, 0, 0, 0]])


def scored(pairs: tuple[tuple[int, int], ...] = ((1, 2),)) -> RegionScores:
    """Rice: 6 of 8 found, 8 predicted: F1 3/4. Egg: 2 of 4, 3 predicted: precision 2/3, F1 4/7."""
    return region_scores(COUNTS, NAMES, least=5, pairs=pairs)


def test_the_summary() -> None:
    assert headlines(scored()) == [
        ("macro F1", 0.75, "1 classes with at least 5 regions"),
        ("top-1", 8 / 12, "12 regions"),
        ("F1 of confused pairs", (12 / 16 + 4 / 7) / 2, "1 pairs"),
    ]
    assert [name for name, _, _ in headlines(scored(()))] == ["macro F1", "top-1"]
    nothing = region_scores(np.zeros((4, 4), np.int64), NAMES, least=5)
    assert [value for _, value, _ in headlines(nothing)] == [None, None]


def test_classes_with_most_regions_come_first() -> None:
    more = COUNTS.copy()
    more[3, 3], more[2] = 9, 0
    assert [each.id for each in by_regions(region_scores(more, NAMES))] == [3, 1]


def test_markdown() -> None:
    lines = region_markdown("regions of meals val", FACTS, scored()).splitlines()
    assert lines[0] == "# regions of meals val" and "- data: meals, split val" in lines
    assert lines[5:9] == [
        "| score | % | over |", "|---|---:|---:|",
        "| macro F1 | 75.0 | 1 classes with at least 5 regions |", "| top-1 | 66.7 | 12 regions |",
    ]  # fmt: skip
    assert "| rice \\| fried / <b>egg</b> | 12 | 66.1 |" in lines
    assert lines[-2:] == [
        "| 1 | rice \\| fried | 8 | 75.0 | 75.0 | 75.0 |", "| 2 | <b>egg</b> | 4 | 66.7 | 50.0 | 57.1 |",
    ]  # fmt: skip
    assert "confused pair" not in region_markdown("t", FACTS, scored(()))


def test_html_has_the_same_numbers_and_escapes_names() -> None:
    page = region_html("regions of <meals>", FACTS, scored())
    assert "<title>regions of &lt;meals&gt; - foodseg</title>" in page
    assert "runs/&lt;i&gt;roi&lt;/i&gt;" in page and "<i>" not in page and "<b>egg" not in page
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    assert [row for row in rows if row] == [
        ["rice | fried / &lt;b&gt;egg&lt;/b&gt;", "12", "66.1"],
        ["rice | fried", "8", "75.0", "75.0", "75.0"],
        ["&lt;b&gt;egg&lt;/b&gt;", "4", "66.7", "50.0", "57.1"],
    ]
    cards = re.findall(r'<div class="card"><span>(.*?)</span><b>([\d.]+) ', page)
    assert cards == [("macro F1", "75.0"), ("top-1", "66.7"), ("F1 of confused pairs", "66.1")]
    assert not re.search(r"(src|href)=|url\(|@import", page)  # it loads no other file
    assert "Confused pairs" not in region_html("t", FACTS, scored(()))
