"""Charts: well-formed, inside the drawing, at the right positions."""

import re
from xml.etree import ElementTree

import pytest

from foodseg.metrics.calibration import ReliabilityBin
from foodseg.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, line_chart, reliability_chart, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (3, 3, [3, 3.75, 4.5, 5.25, 6]),
        (0.31, 0.34, [0.31, 0.32, 0.33, 0.34]),
        (0, 0, [0, 0.0002, 0.0004, 0.0006, 0.0008, 0.001]),
        (1, 1180, [0, 250, 500, 750, 1000, 1250]),
    ],
)
def test_ticks(low, high, expected):
    found = ticks(low, high)
    assert len(found) >= 2 and found[0] <= low and found[-1] >= high
    if low != high or low == 0:
        assert found == pytest.approx(expected)


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(r'<polyline points="([^"]*)"', svg)
    return [[tuple(map(float, pair.split(","))) for pair in line.split()] for line in lines]


def test_a_line_by_hand():
    line = Line("risk", [(0.0, 0.0), (0.5, 5.0), (1.0, 10.0)])
    svg = line_chart("Risk", [line], x="x", y="y", x_range=(0, 1))
    ElementTree.fromstring(svg)
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    assert points_of(svg) == [[(LEFT, HEIGHT - BOTTOM), pytest.approx(middle, abs=0.06), (WIDTH - RIGHT, TOP)]]


@pytest.mark.parametrize("points", [[(7, 0.3)], [(1, 0.5), (2, 0.5)], [(10 * i, 1 / (i + 1)) for i in range(200)]])
def test_lines_stay_inside(points):
    svg = line_chart("t", [Line("a", points), Line("b", points[:1])], x="step", y="loss")
    ElementTree.fromstring(svg)
    for line in points_of(svg):
        assert all(LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 and TOP - 0.1 <= y <= HEIGHT - BOTTOM + 0.1 for x, y in line)


def test_names_are_escaped():
    svg = line_chart("<b>", [Line("a & <script>", [(0, 1)]), Line("c", [(0, 2)])], x='"x"', y="<y>")
    ElementTree.fromstring(svg)
    assert "<script>" not in svg and "a &amp; &lt;script&gt;" in svg


def test_reliability_bars():
    bins = [ReliabilityBin(0, None, None), ReliabilityBin(9, 0.7, 0.5), ReliabilityBin(1, 0.9, 1.0)]
    drawn = ElementTree.fromstring(reliability_chart("r", bins)).findall("rect")
    bars = [tuple(float(bar.get(name)) for name in ("x", "y", "height")) for bar in drawn]
    high = HEIGHT - TOP - BOTTOM
    assert [bar[2] for bar in bars] == [pytest.approx(high / 2, abs=0.1), pytest.approx(high, abs=0.1)]
    assert bars[0][0] == pytest.approx(LEFT + (WIDTH - LEFT - RIGHT) / 3 + 1, abs=0.1)
