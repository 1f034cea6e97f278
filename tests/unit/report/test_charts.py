"""Charts: well-formed, inside the drawing, at the right positions, and the same each time."""

import re
import warnings
from xml.etree import ElementTree

import pytest

from foodseg.metrics.calibration import ReliabilityBin
from foodseg.report.charts import COLOURS, SIZE, Line, line_chart, reliability_chart


def paths_of(svg: str, style: str) -> list[list[tuple[float, float]]]:
    """The corners of each path that has a style."""
    found = [path for path in ElementTree.fromstring(svg).iter("path") if style in path.get("style", "")]
    corners = [re.findall(r"[ML] (\S+) (\S+)", path.get("d", "")) for path in found if path.get("id") is None]
    return [[(float(x), float(y)) for x, y in path] for path in corners]


def texts_of(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("text")]


def test_a_line_by_hand():
    line = Line("risk", [(0.0, 0.0), (0.5, 5.0), (1.0, 10.0)])
    (path,) = paths_of(line_chart("Risk", [line], x="x", y="y", x_range=(0, 1)), f"stroke: {COLOURS[0]}")
    (left, low), middle, (right, high) = path
    assert middle == pytest.approx(((left + right) / 2, (low + high) / 2), abs=0.01)
    assert 0 < left < right <= SIZE[0] and 0 <= high < low < SIZE[1]


@pytest.mark.parametrize("points", [[(7, 0.3)], [(1, 0.5), (2, 0.5)], [(10 * i, 1 / (i + 1)) for i in range(200)]])
def test_lines_stay_inside(points):
    svg = line_chart("t", [Line("a", points), Line("b", points[:1]), Line("c", [])], x="step", y="loss")
    for colour in COLOURS[:2]:
        path = paths_of(svg, f"stroke: {colour}")[0]
        assert path and all(0 <= x <= SIZE[0] and 0 <= y <= SIZE[1] for x, y in path)


def test_names_are_text_in_any_script_and_escaped():
    lines = [Line("a & <script> xlink: font-family: x", [(0, 1)]), Line("$c_1$ \u5bff\u53f8", [(0, 2)])]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = line_chart('<b> "t"', lines, x='"x"', y="<y>")
    assert not re.search("<script>|DejaVu|http", svg)  # the page says in which fonts
    assert {"a & <script> xlink: font-family: x", "$c_1$ \u5bff\u53f8", '"x"', "<y>"} <= set(texts_of(svg))
    root = ElementTree.fromstring(svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", '<b> "t"')


def test_charts_of_one_page_are_repeatable_and_share_no_id():
    lines = [Line("a", [(0, 1), (1, 2)]), Line("b", [(0, 2), (1, 1)])]
    first, second = (line_chart(title, lines, x="x", y="y") for title in ("one", "two"))
    assert first == line_chart("one", lines, x="x", y="y")
    ids = [re.findall(r' id="([^"]*)"', svg) for svg in (first, second)]
    assert ids[0] and len({*ids[0], *ids[1]}) == len(ids[0]) + len(ids[1])
    for svg, own in zip((first, second), ids, strict=True):
        used = re.findall(r' href="#(\w+)"', svg)
        assert used and set(used) <= set(own)


def test_reliability_bars():
    bins = [ReliabilityBin(0, None, None), ReliabilityBin(9, 0.7, 0.5), ReliabilityBin(1, 0.9, 1.0)]
    svg = reliability_chart("r", bins)
    bars = paths_of(svg, f"fill: {COLOURS[0]}")
    heights = [max(y for _, y in bar) - min(y for _, y in bar) for bar in bars]
    assert heights == [0, pytest.approx(heights[2] / 2, abs=0.01), pytest.approx(heights[2])]
    assert {"confidence", "share right"} <= set(texts_of(svg))
    diagonal = paths_of(svg, f"stroke: {COLOURS[1]}")[0]
    assert bars[1][0][0] == pytest.approx(diagonal[0][0] + (diagonal[1][0] - diagonal[0][0]) / 3, abs=0.01)
