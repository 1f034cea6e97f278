"""`report.html` of a sweep: curves, hyperparameters, front, and what was stopped early; a single file."""

import time
from dataclasses import dataclass

from markupsafe import Markup

from foodseg import __version__, storage
from foodseg.config.sweep import SweepConfig
from foodseg.report.html_page import render_page
from foodseg.tune.sweep_charts import UNITS, curves_chart, parallel_chart, pareto_chart
from foodseg.tune.sweep_result import SweepResult
from foodseg.tune.trials import Trial

CURVES = "Purple: the best trial. Grey: stopped early. A dot is where it ended."
SEARCHERS = {"random": "random draws", "grid": "every combination", "tpe": "Optuna's TPE"}


def sweep_html(result: SweepResult, facts: dict[str, str]) -> str:
    """Returns the page; every name in it is escaped.

    Args:
        facts: what was trained on what, by name, shown above those of the sweep itself.
    """
    best, sweep, trials = result.best, result.sweep, result.trials
    name = best.name if best else None
    charts = [(Markup(curves_chart(trials, name)), CURVES)]
    if result.front:
        caption = "Green: no other finished trial has a better mIoU at a lower cost."
        charts.append((Markup(pareto_chart(trials, result.front, sweep.against)), caption))
    important = sorted(result.importance.items(), key=lambda pair: -(pair[1] or 0))
    return render_page(
        "sweep.html.j2",
        result=result,
        facts={**facts, **_facts(sweep)},
        charts=charts,
        parallel=Markup(parallel_chart(trials, result.space.hyperparameters, name)),
        importance=important,
        best_file=result.file("best.yaml"),
        best=[]
        if best is None
        else [(key, _shown(value)) for key, value in result.space.settings(best.values).items()],
        stopped=[
            trial for status in ("failed", "interrupted", "stopped") for trial in trials if trial.status == status
        ],
        rows=[_row(trial, result) for trial in trials],
        cost=UNITS[sweep.against][1] if sweep.against != "none" else None,
    )


def _facts(sweep: SweepConfig) -> dict[str, str]:
    early = {
        "none": "none",
        "asha": f"ASHA from {100 * sweep.grace:g} % of the steps on, one of {sweep.reduction:g} continues at each rung",
        "hyperband": f"brackets of ASHA, the first from {100 * sweep.grace:g} % of the steps on",
    }
    limits = {"trials": sweep.trials, "hours": sweep.hours, "worker-hours": sweep.worker_hours}
    given = [f"{amount:g} {name}" for name, amount in limits.items() if amount is not None]
    return {
        "sweep": storage.redact(sweep.uri),
        "search": f"{SEARCHERS[sweep.searcher]}, seed {sweep.seed}",
        "early stopping": early[sweep.scheduler],
        "budget": ", ".join(given) or "the whole grid",
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()) + f" by foodseg {__version__}",
    }


@dataclass(frozen=True)
class TrialRow:
    """A row of the table: `cost` in the unit of its column, `chosen` values; `best`: it is the best trial."""

    trial: Trial
    cost: str
    chosen: str
    best: bool


def _row(trial: Trial, result: SweepResult) -> TrialRow:
    against = result.sweep.against
    cost = trial.costs.get(against)
    return TrialRow(
        trial=trial,
        cost="-" if cost is None else f"{cost / UNITS[against][0]:.2f}",
        chosen=", ".join(f"{name} {_shown(value)}" for name, value in trial.values.items()),
        best=result.best is not None and trial.name == result.best.name,
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
