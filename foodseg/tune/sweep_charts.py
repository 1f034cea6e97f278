"""The charts of a sweep's report, as inline SVG in the style of the other charts."""

import math
from collections.abc import Sequence
from typing import Any

from foodseg.config.sweep import Against
from foodseg.report.charts import AXIS, COLOURS, svg
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

    def draw(axes: Any) -> None:
        for trial in sorted(scored, key=lambda trial: (trial.name == best, trial.status == "finished")):
            colour, width = (BEST, 2.5) if trial.name == best else (COLOUR[trial.status], 1.2)
            points = [(100 * report.share, 100 * report.miou) for report in trial.reports]
            axes.plot(*zip(*points, strict=True), "o-", color=colour, lw=width, markevery=[-1], clip_on=False)
        axes.set_xlim(0, 100)
        axes.set_ylim(0)

    return svg("mIoU on val of every trial", "share of the steps, %", "mIoU on val, %", draw)


def parallel_chart(trials: Sequence[Trial], hyperparameters: Sequence[Hyperparameter], best: str | None) -> str:
    """Returns one line per trial from hyperparameter to hyperparameter to its mIoU; the better a trial, the stronger
    its line.

    Args:
        trials: best first.
    """
    scored = [trial for trial in trials if trial.score is not None and trial.status != "failed"]
    scores = [100 * (trial.score or 0) for trial in scored]
    low, high = wide(min(scores, default=0.0), max(scores, default=1.0))
    columns = [(param.name, _marks(param)) for param in hyperparameters]
    columns.append(("mIoU on val, %", [(f"{low + share * (high - low):.3g}", share) for share in (0.0, 0.5, 1.0)]))

    def draw(axes: Any) -> None:
        for column, (_, marks) in enumerate(columns):
            axes.axvline(column, color=AXIS, linewidth=1)
            for words, height in marks:
                axes.text(column + 0.02, height, f"- {words[:18]}", va="center")
        for rank, trial in reversed(list(enumerate(scored))):
            heights = [*(_height(param, trial) for param in hyperparameters), (scores[rank] - low) / (high - low)]
            alpha, width = (1.0, 2.5) if trial.name == best else (1 - 0.8 * rank / len(scored), 1.2)
            axes.plot(heights, color=BEST if trial.name == best else COLOUR[trial.status], alpha=alpha, linewidth=width)
        axes.set(xlim=(-0.1, len(columns) - 0.4), ylim=(-0.05, 1.05), yticks=[])
        # names of neighbours would run into each other on one line
        axes.set_xticks(range(len(columns)), ["\n" * (column % 2) + name for column, (name, _) in enumerate(columns)])

    return svg("Hyperparameters and mIoU of every trial", "", "", draw, (COLUMN * len(columns), TALL))


def pareto_chart(trials: Sequence[Trial], front: Sequence[str], against: Against) -> str:
    """Returns the finished trials over what their model costs; the line connects the Pareto front."""
    unit, title = UNITS[against]
    points = {
        trial.name: (trial.costs[against] / unit, 100 * trial.score)
        for trial in trials
        if trial.status == "finished" and trial.score is not None
    }

    def draw(axes: Any) -> None:
        axes.margins(0.1)
        axes.plot(*zip(*points.values(), strict=True), "o", color=AXIS)
        axes.plot(*zip(*(points[name] for name in front), strict=True), "o-", color=COLOURS[0], markersize=6)
        for name in front:
            axes.annotate(name, points[name], (4, 4), textcoords="offset points")

    return svg(f"mIoU on val over {title}", title, "mIoU on val, %", draw)


def wide(low: float, high: float) -> tuple[float, float]:
    """Returns the range as it is, or a wider one where both ends are equal."""
    return (low, high) if high > low else (low, low + max(1e-3, abs(low)))


def _height(param: Hyperparameter, trial: Trial) -> float:
    if param.name not in trial.values:
        return 0.0
    value = trial.values[param.name]
    return _label(param, str(value)) if param.choices else _number(param, float(value))


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


def _marks(param: Hyperparameter) -> list[tuple[str, float]]:
    """Texts on the axis of a hyperparameter, and their positions in [0, 1]."""
    if param.choices:
        marks = [(label.strip('"'), _label(param, label)) for label in param.choices]
    else:
        log = param.kind == "loguniform"
        middle = float(f"{math.sqrt(param.low * param.high):.2g}") if log else (param.low + param.high) / 2
        marks = [(f"{number:g}", _number(param, number)) for number in (param.low, middle, param.high)]
    return [*marks, *([("not used", 0.0)] if param.when else [])]
