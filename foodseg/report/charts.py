"""Small charts as inline SVG, for a page without external files: lines over numbers, and confidence against accuracy.

svg = line_chart("mIoU on val", [Line("val", [(100, 0.2), (200, 0.31)])], x="step", y="mIoU")
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from foodseg.metrics.calibration import ReliabilityBin

WIDTH, HEIGHT = 420, 250  # of the drawing; a page scales it
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 14, 44  # margins around the plot
COLOURS = ("#1f6f54", "#b3541e", "#3a5a98", "#8a3b6f")
GRID, AXIS, TEXT = "#e3e6e3", "#9aa39d", "#47524b"


@dataclass(frozen=True)
class Line:
    """One line: its name in the key and its points, x rising."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """The ranges of both axes; maps numbers to positions in the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]

    def position(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def line_chart(title: str, lines: Sequence[Line], *, x: str, y: str, x_range: tuple[float, float] | None = None) -> str:
    """Returns an SVG of the lines with axes, ticks and, for several lines, a key.

    Args:
        title: read aloud by screen readers.
        lines: with at least one point in all; y at least 0, where the vertical axis begins.
        x, y: names of the axes.
        x_range: of the horizontal axis; None = from 0 to the last point.
    """
    xs, ys = ([point[i] for line in lines for point in line.points] for i in (0, 1))
    x_low, x_high = wide(*(x_range or (0.0, max(xs))))
    x_ticks = [tick for tick in ticks(x_low, x_high) if tick <= x_high]
    y_ticks = ticks(0, max(ys))
    scale = Scale((x_low, x_high), (y_ticks[0], y_ticks[-1]))
    parts = axes(scale, x_ticks, y_ticks, x, y)
    for colour, line in zip(COLOURS * len(lines), lines, strict=False):
        positions = [scale.position(*point) for point in line.points]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in positions)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(positions) <= 40:
            parts += [f'<circle cx="{left:.1f}" cy="{top:.1f}" r="2.5" fill="{colour}"/>' for left, top in positions]
    return svg(title, parts + (_key(lines) if len(lines) > 1 else []))


def reliability_chart(title: str, bins: Sequence[ReliabilityBin]) -> str:
    """Returns an SVG: per bin of confidence the share that is right, compared with the diagonal of a calibrated model.

    The fuller the colour, the more pixels are in a bin.
    """
    even = ticks(0, 1)
    scale = Scale((0, 1), (0, 1))
    parts = axes(scale, even, even, "confidence", "share right")
    most = max(entry.pixels for entry in bins)
    for index, entry in enumerate(bins):
        if entry.accuracy is None:
            continue
        left, top = scale.position(index / len(bins), entry.accuracy)
        right, bottom = scale.position((index + 1) / len(bins), 0)
        opacity = 0.3 + 0.7 * math.sqrt(entry.pixels / most)
        parts.append(
            f'<rect x="{left + 1:.1f}" y="{top:.1f}" width="{right - left - 2:.1f}" height="{bottom - top:.1f}" '
            f'fill="{COLOURS[0]}" fill-opacity="{opacity:.2f}"/>'
        )
    (left, bottom), (right, top) = scale.position(0, 0), scale.position(1, 1)
    parts.append(
        f'<line x1="{left:.1f}" y1="{bottom:.1f}" x2="{right:.1f}" y2="{top:.1f}" '
        f'stroke="{COLOURS[1]}" stroke-width="2" stroke-dasharray="5 4"/>'
    )
    return svg(title, parts)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Returns about `wanted` round numbers from at most `low` to at least `high`; at least two."""
    low, high = wide(low, high)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def wide(low: float, high: float) -> tuple[float, float]:
    """Returns the range as it is, or a wider one where both ends are equal."""
    return (low, high) if high > low else (low, low + max(1e-3, abs(low)))


def axes(scale: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x: str, y: str) -> list[str]:
    """Returns the SVG of a grid with numbers, and of the names of both axes."""
    left, bottom = LEFT, HEIGHT - BOTTOM
    parts = []
    for tick in y_ticks:
        _, top = scale.position(scale.x[0], tick)
        parts.append(f'<line x1="{left}" y1="{top:.1f}" x2="{WIDTH - RIGHT}" y2="{top:.1f}" stroke="{GRID}"/>')
        parts.append(text(left - 6, top + 4, f"{tick:g}", "end"))
    for tick in x_ticks:
        across, _ = scale.position(tick, scale.y[0])
        parts.append(f'<line x1="{across:.1f}" y1="{bottom}" x2="{across:.1f}" y2="{bottom + 4}" stroke="{AXIS}"/>')
        parts.append(text(across, bottom + 17, f"{tick:g}", "middle"))
    parts.append(f'<line x1="{left}" y1="{bottom}" x2="{WIDTH - RIGHT}" y2="{bottom}" stroke="{AXIS}"/>')
    middle = (TOP + bottom) / 2
    parts.append(text((left + WIDTH - RIGHT) / 2, HEIGHT - 8, x, "middle"))
    parts.append(
        f'<text x="12" y="{middle:.1f}" text-anchor="middle" transform="rotate(-90 12 {middle:.1f})">{escape(y)}</text>'
    )
    return parts


def _key(lines: Sequence[Line]) -> list[str]:
    parts, right = [], WIDTH - RIGHT
    for index, line in enumerate(lines):
        top = TOP + 6 + 16 * index
        parts.append(text(right - 22, top + 4, line.name, "end"))
        colour = COLOURS[index % len(COLOURS)]
        parts.append(f'<line x1="{right - 18}" y1="{top}" x2="{right}" y2="{top}" stroke="{colour}" stroke-width="3"/>')
    return parts


def text(left: float, top: float, words: str, anchor: str) -> str:
    """Returns the SVG of some words; `anchor`: start, middle or end."""
    return f'<text x="{left:.1f}" y="{top:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def svg(title: str, parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    """Returns the whole SVG; screen readers read `title` aloud."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}" font-size="12" fill="{TEXT}" '
        f'font-family="inherit"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )
