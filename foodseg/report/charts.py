"""Small charts as inline SVG, for a page without external files: lines over numbers, and confidence against accuracy.

svg = line_chart("mIoU on val", [Line("val", [(100, 0.2), (200, 0.31)])], x="step", y="mIoU")
"""

import io
import math
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from foodseg.metrics.calibration import ReliabilityBin

SIZE = (420, 250)  # of the drawing; a page scales it
COLOURS = ("#1f6f54", "#b3541e", "#3a5a98", "#8a3b6f")
GRID, AXIS, TEXT = "#e3e6e3", "#9aa39d", "#47524b"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "text.parse_math": False, "font.size": 11, "text.color": TEXT,
    "axes.labelcolor": TEXT, "xtick.labelcolor": TEXT, "ytick.labelcolor": TEXT, "xtick.color": AXIS,
    "ytick.left": False, "axes.edgecolor": AXIS, "axes.spines.left": False, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "axes.axisbelow": True,
    "axes.xmargin": 0.0, "legend.frameon": False, "lines.markersize": 4,
    "savefig.transparent": True, "figure.constrained_layout.use": True,
}  # fmt: skip
# in a page of HTML: fonts are those of the page, names of groups would occur twice, and namespaces are known
_LEFT_OUT = re.compile(r'(?<=<g) id="[^"]*"|font-family: [^;"]*;? ?| xmlns\S*="[^"]*"|xlink:| clip-path="[^"]*"')


@dataclass(frozen=True)
class Line:
    """One line: its name in the key and its points, x rising."""

    name: str
    points: Sequence[tuple[float, float]]


def line_chart(title: str, lines: Sequence[Line], *, x: str, y: str, x_range: tuple[float, float] | None = None) -> str:
    """Returns an SVG of the lines with axes, ticks and, for several lines, a key.

    Args:
        title: read aloud by screen readers.
        lines: with at least one point in all; y at least 0, where the vertical axis begins.
        x, y: names of the axes.
        x_range: of the horizontal axis; None = from 0 to the last point.
    """

    def draw(axes: Any) -> None:
        for colour, line in zip(COLOURS * len(lines), lines, strict=False):
            marker = "o" if len(line.points) <= 40 else ""
            axes.plot(*zip(*line.points, strict=True), marker=marker, color=colour, label=line.name, clip_on=False)
        axes.set_xlim(x_range or (0, None))
        axes.set_ylim(0)
        if len(lines) > 1:
            axes.legend(markerfirst=False)

    return svg(title, x, y, draw)


def reliability_chart(title: str, bins: Sequence[ReliabilityBin]) -> str:
    """Returns an SVG: per bin of confidence the share that is right, compared with the diagonal of a calibrated model.

    The fuller the colour, the more pixels are in a bin.
    """
    most = max(entry.pixels for entry in bins)

    def draw(axes: Any) -> None:
        for index, entry in enumerate(bins):
            left, alpha = index / len(bins), 0.3 + 0.7 * math.sqrt(entry.pixels / most)
            axes.bar(left, entry.accuracy or 0, 0.94 / len(bins), align="edge", color=COLOURS[0], alpha=alpha)
        axes.plot((0, 1), (0, 1), color=COLOURS[1], linestyle="--")
        axes.set(xlim=(0, 1), ylim=(0, 1))

    return svg(title, "confidence", "share right", draw)


def svg(title: str, x: str, y: str, draw: Callable[[Any], None], size: tuple[float, float] = SIZE) -> str:
    """Returns what `draw` draws on matplotlib's axes as an SVG, equal for equal drawings, in the fonts of the page.

    Args:
        title: read aloud by screen readers; another one for each chart of a page.
        x, y: names of the axes.
        size: width and height of the drawing.
    """
    from matplotlib import rc_context  # loading it takes half a second
    from matplotlib.figure import Figure

    drawn = io.StringIO()
    with rc_context({**_STYLE, "svg.hashsalt": title}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the page has fonts for every script
        figure = Figure(figsize=(size[0] / 72, size[1] / 72))
        draw(figure.add_subplot(xlabel=x, ylabel=y))
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = re.sub("<[^>]*>", lambda tag: _LEFT_OUT.sub("", tag[0]), drawn.getvalue())
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
