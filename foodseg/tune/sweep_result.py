"""The result of a sweep: the best trial, the importance of each hyperparameter, the Pareto front of score and cost.

result = summarise_sweep(ledger, space, sweep)      # also while it runs
write_sweep_results(result)                         # best.yaml, trials.parquet, report.html
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foodseg import storage
from foodseg.config import ExperimentConfig
from foodseg.config.load import to_yaml
from foodseg.config.sweep import Against, SweepConfig
from foodseg.tune.space import Hyperparameter, Space
from foodseg.tune.trials import Trial

# Importance and front are our own, and not Optuna's: random and grid sweeps have a report without the extra `tune`, and
# Optuna's importances sum to 1 even where nothing has an effect, and leave out trials that were stopped early.
PARTS = 3  # groups that the values of a number are cut into


@dataclass(frozen=True)
class SweepResult:
    """trials: best first (`ranked`). best: None while none is finished. front: names of the Pareto front.

    importance: per hyperparameter the share of the variance of the ranks that it explains alone, in [0, 1]; None where
    too few trials used it.
    """

    sweep: SweepConfig
    space: Space
    trials: tuple[Trial, ...]
    best: Trial | None
    importance: Mapping[str, float | None]
    front: tuple[str, ...]
    workers: int

    @property
    def worker_hours(self) -> float:
        return sum(trial.seconds for trial in self.trials) * self.workers / 3600

    def count(self, *statuses: str) -> int:
        return sum(trial.status in statuses for trial in self.trials)

    def file(self, name: str) -> str:
        """Returns where the file `name` of the sweep is, for people: without secrets."""
        return storage.redact(storage.join(self.sweep.uri, name))

    def to_json(self) -> dict[str, object]:
        """Returns plain data: counts, the best trial, importance and front, and where the files are."""
        best = self.best
        return {
            "sweep": storage.redact(self.sweep.uri),
            "trials": len(self.trials),
            **{status: self.count(status) for status in ("finished", "stopped", "failed", "interrupted", "running")},
            "worker_hours": round(self.worker_hours, 4),
            "best": None if best is None else {"trial": best.name, "miou": best.score, "values": best.values},
            "importance": dict(self.importance),
            "front": list(self.front),
            **{name: self.file(name) for name in ("best.yaml", "report.html")},
        }


def summarise_sweep(trials: Sequence[Trial], space: Space, sweep: SweepConfig, workers: int) -> SweepResult:
    """Compares the trials; the best one is the best of those that trained to their end."""
    order = tuple(ranked(trials))
    best = next((trial for trial in order if trial.status == "finished"), None)
    importance = {param.name: explained_share(param, order) for param in space.hyperparameters}
    return SweepResult(sweep, space, order, best, importance, pareto_front(order, sweep.against), workers)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Returns the trials best first: finished ones by score, then the others by how far they came and their score."""

    def rank(trial: Trial) -> tuple[bool, float, float, int]:
        score = -1.0 if trial.score is None else trial.score
        return trial.status != "finished", -trial.share, -score, trial.number

    return sorted(trials, key=rank)


def explained_share(param: Hyperparameter, order: Sequence[Trial]) -> float | None:
    """Returns how much of the variance of the ranks one hyperparameter explains alone: epsilon squared, at least 0.

    Ranks, because trials that were stopped early have no score to compare. Numbers are cut into PARTS groups of equal
    size. Epsilon squared is the correlation ratio freed of what as many groups would explain by chance (Kelley, "An
    unbiased correlation ratio measure", 1935).

    Args:
        order: trials, best first; those that failed or did not use the hyperparameter are left out.
    """
    scored = [trial for trial in order if trial.status in ("finished", "stopped") and trial.score is not None]
    used = [(rank, trial.values[param.name]) for rank, trial in enumerate(scored) if param.name in trial.values]
    if param.choices:
        groups = [[rank for rank, value in used if value == label] for label in param.choices]
    else:
        values = np.array([value for _, value in used], float)
        # by value, not by rank: equal values stay together
        part = np.searchsorted(np.quantile(values, np.arange(1, PARTS) / PARTS), values) if used else values
        groups = [[rank for (rank, _), own in zip(used, part, strict=True) if own == index] for index in range(PARTS)]
    groups = [group for group in groups if group]
    count = sum(map(len, groups))
    if count <= len(groups) or len(groups) < 2:
        return None
    ranks = np.concatenate([np.array(group, float) for group in groups])
    total = float(((ranks - ranks.mean()) ** 2).sum())
    within = sum(float(((np.array(group) - np.mean(group)) ** 2).sum()) for group in groups)
    chance = (len(groups) - 1) * within / (count - len(groups))
    return max(0.0, (total - within - chance) / total)


def pareto_front(trials: Sequence[Trial], against: Against) -> tuple[str, ...]:
    """Returns the Pareto front: finished trials that no other one beats in both mIoU and cost, the cheapest first."""
    if against == "none":
        return ()
    points = [
        (trial.costs[against], -trial.score, trial.name)
        for trial in trials
        if trial.status == "finished" and trial.score is not None
    ]
    front: list[tuple[float, float, str]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return tuple(name for _, _, name in front)


def best_config(result: SweepResult) -> ExperimentConfig | None:
    """Returns the configuration of the best trial, with a run directory of its own that is still to be trained."""
    if result.best is None:
        return None
    config = result.best.parsed()
    uri = storage.join(result.sweep.uri, "best")
    return config.model_copy(update={"run": config.run.model_copy(update={"uri": uri})})


def write_sweep_results(result: SweepResult, page: str) -> None:
    """Writes report.html (`page`), trials.parquet and, once a trial is finished, best.yaml."""
    uri = result.sweep.uri
    sink = pa.BufferOutputStream()
    pq.write_table(trials_table(result), sink, compression="zstd")
    storage.write_bytes(storage.join(uri, "trials.parquet"), sink.getvalue().to_pybytes())
    config = best_config(result)
    if config is not None:
        storage.write_text(storage.join(uri, "best.yaml"), to_yaml(config))
    storage.write_text(storage.join(uri, "report.html"), page)


def trials_table(result: SweepResult) -> pa.Table:
    """Returns a row per trial, best first: what it was, what became of it, its curve, a column per hyperparameter."""
    trials = result.trials
    columns: dict[str, Sequence[object]] = {
        "trial": [trial.name for trial in trials],
        "number": [trial.number for trial in trials],
        "status": [trial.status for trial in trials],
        "reason": pa.array([trial.reason for trial in trials], pa.string()),
        "miou": pa.array([trial.score for trial in trials], pa.float64()),
        "share": [trial.share for trial in trials],
        "seconds": [trial.seconds for trial in trials],
        "front": [trial.name in result.front for trial in trials],
        "curve_step": pa.array([[report.step for report in t.reports] for t in trials], pa.list_(pa.int64())),
        "curve_miou": pa.array([[report.miou for report in t.reports] for t in trials], pa.list_(pa.float64())),
    }
    for cost in sorted({name for trial in trials for name in trial.costs}):
        columns[cost] = pa.array([trial.costs.get(cost) for trial in trials], pa.float64())
    for param in result.space.hyperparameters:
        of = pa.string() if param.choices else pa.float64()
        columns[param.name] = pa.array([trial.values.get(param.name) for trial in trials], of)
    return pa.table(columns)
