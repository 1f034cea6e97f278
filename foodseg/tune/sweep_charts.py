"""The charts of a sweep's report, as inline SVG in the style of the other charts."""

import math
from collections.abc import Sequence

from foodseg.config.sweep import Against
from foodseg.report.charts import AXIS, BOTTOM, COLOURS, TOP, Scale, axes, svg, text, ticks, wide
from foodseg.tune.space import Hyperparameter
from foodseg.tune.trials import Trial

COLOUR = {"finished": COLOURS[0], "stopped": "#9aa39d", "failed": COLOURS[1], "interrupted": COLOURS[2],
          "running": COLOURS[2]}  # fmt: skip
BEST = COLOURS[3]
COLUMN = 150  # of the parallel coordinates, from one axis to the next
TALL = 300
FOOT = 0.15  # of an axis, for trials that do not use its hyperparameter
UNITS = {"parameters": (1e6, "million parameters"), "latency": (1, "ms an image")}


def curves_chart(trials: Sequence[Trial], best: str | None) -> str:
    """Returns the mIoU on val of every trial over the share of its steps; a dot where it ended."""
    scored = [trial for trial in trials if trial.reports]
    y_ticks = ticks(0, max((100 * line["miou"] for trial in scored for line in trial.reports), default=1.0))
    scale = Scale((0, 100), (y_ticks[0], y_ticks[-1]))
    parts = axes(scale, ticks(0, 100), y_ticks, "share of the steps, %", "mIoU on val, %")
    for trial in sorted(scored, key=lambda trial: (trial.name == best, trial.status == "finished")):
        colour = BEST if trial.name == best else COLOUR[trial.status]
        positions = [scale.position(100 * line["share"], 100 * line["miou"]) for line in trial.reports]
        path = " ".join(f"{left:.1f},{top:.1f}" for left, top in positions)
        width = 2.5 if trial.name == best else 1.2
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        parts.append(f'<circle cx="{positions[-1][0]:.1f}" cy="{positions[-1][1]:.1f}" r="2.5" fill="{colour}"/>')
    return svg("mIoU on val of every trial", parts)


def parallel_chart(trials: Sequence[Trial], hyperparameters: Sequence[Hyperparameter], best: str | None) -> str:
    """Returns one line per trial from hyperparameter to hyperparameter to its mIoU; the better a trial, the stronger
    its line.

    Args:
        trials: best first.
    """
    scored = [trial for trial in trials if trial.score is not None and trial.status != "failed"]
    scores = ticks(*wide(*_ends([100 * (trial.score or 0) for trial in scored])))
    parts = []
    for column, param in enumerate(hyperparameters):
        if param.choices:
            marks = [(label.strip('"'), _label(param, label)) for label in param.choices]
        else:
            marks = [(f"{tick:g}", _number(param, tick)) for tick in _marks(param)]
        parts += _axis(column, param.name, [*marks, *([("not used", 0.0)] if param.when else [])])
    marks = [(f"{tick:g}", (tick - scores[0]) / (scores[-1] - scores[0])) for tick in scores]
    parts += _axis(len(hyperparameters), "mIoU on val, %", marks)
    for rank, trial in reversed(list(enumerate(scored))):
        heights = [_height(param, trial) for param in hyperparameters]
        heights.append((100 * (trial.score or 0) - scores[0]) / (scores[-1] - scores[0]))
        path = " ".join(f"{_across(column):.1f},{_up(height):.1f}" for column, height in enumerate(heights))
        colour, strength = (BEST, 1.0) if trial.name == best else (COLOUR[trial.status], 1 - 0.8 * rank / len(scored))
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-opacity="{strength:.2f}" '
            f'stroke-width="{2.5 if trial.name == best else 1.2}"/>'
        )
    return svg("Hyperparameters and mIoU of every trial", parts, COLUMN * (len(hyperparameters) + 1), TALL)


def pareto_chart(trials: Sequence[Trial], front: Sequence[str], against: Against) -> str:
    """Returns the finished trials over what their model costs; the line connects the Pareto front."""
    unit, title = UNITS[against]
    points = {
        trial.name: (trial.costs[against] / unit, 100 * trial.score)
        for trial in trials
        if trial.status == "finished" and trial.score is not None
    }
    x_ticks = ticks(*wide(*_ends([x for x, _ in points.values()])))
    y_ticks = ticks(*wide(*_ends([y for _, y in points.values()])))
    scale = Scale((x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1]))
    parts = axes(scale, x_ticks, y_ticks, title, "mIoU on val, %")
    path = " ".join("{:.1f},{:.1f}".format(*scale.position(*points[name])) for name in front)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[0]}" stroke-width="2"/>')
    for name, point in points.items():
        left, top = scale.position(*point)
        colour, radius = (COLOURS[0], 4) if name in front else (AXIS, 3)
        parts.append(f'<circle cx="{left:.1f}" cy="{top:.1f}" r="{radius}" fill="{colour}"/>')
        if name in front:
            parts.append(text(left + 6, top - 5, name, "start" if left < 300 else "end"))
    return svg(f"mIoU on val over {title}", parts)


def _height(param: Hyperparameter, trial: Trial) -> float:
    if param.name not in trial.values:
        return 0.0
    value = trial.values[param.name]
    return _label(param, value) if param.choices else _number(param, value)


def _label(param: Hyperparameter, label: str) -> float:
    """The position of a choice on its axis, in [0, 1]; with `when`, the foot is kept free for "not used"."""
    labels = list(param.choices)
    return _above_foot(param, (labels.index(label) + 0.5) / len(labels))


def _number(param: Hyperparameter, value: float) -> float:
    """The position of a number on its axis, in [0, 1]."""
    low, high = wide(param.low, param.high)
    if param.kind == "loguniform":
        low, high, value = math.log(low), math.log(high), math.log(value)
    return _above_foot(param, (value - low) / (high - low))


def _above_foot(param: Hyperparameter, position: float) -> float:
    return FOOT + (1 - FOOT) * position if param.when else position


def _marks(param: Hyperparameter) -> list[float]:
    if param.kind == "loguniform":
        middle = math.sqrt(param.low * param.high)
        return [param.low, float(f"{middle:.2g}"), param.high]
    return [param.low, (param.low + param.high) / 2, param.high]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return (min(values), max(values)) if values else (0.0, 1.0)


def _across(column: int) -> float:
    return 40 + column * COLUMN


def _up(height: float) -> float:
    return TALL - BOTTOM - height * (TALL - TOP - BOTTOM)


def _axis(column: int, name: str, marks: Sequence[tuple[str, float]]) -> list[str]:
    left = _across(column)
    parts = [f'<line x1="{left}" y1="{TOP}" x2="{left}" y2="{TALL - BOTTOM}" stroke="{AXIS}"/>']
    for words, height in marks:
        top = _up(height)
        parts.append(f'<line x1="{left - 3}" y1="{top:.1f}" x2="{left + 3}" y2="{top:.1f}" stroke="{AXIS}"/>')
        parts.append(text(left + 6, top + 4, words[:18], "start"))
    # names of neighbours would run into each other on one line
    parts.append(text(left - 34, TALL - 8 - 16 * (column % 2), name, "start"))
    return parts
