"""The state of every trial: one small JSON file each, rewritten whole at every event.

A sweep resumes from these files alone. They hold plain data, so nothing foreign is ever unpickled, and each is one PUT
in an object store. The driver writes `ledger/<name>.json`; a trial that ends writes `ended/<name>.json`
itself, so that a driver that is killed at that moment loses nothing.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from foodseg import storage
from foodseg.checkpoint.history import Validation
from foodseg.config import ExperimentConfig, parse_config
from foodseg.tune.space import Values

# running: begun and not ended. interrupted: storage, cluster or budget ran out; --resume resumes both
Status = Literal["running", "interrupted", "finished", "stopped", "failed"]
DRIVER_RETRY_SECONDS = 6 * 3600.0  # seconds: without storage the driver can record nothing
FINAL: tuple[Status, ...] = ("finished", "stopped", "failed")


@dataclass(frozen=True)
class TrialReport:
    """A validation of a trial after a `share` of its steps, in (0, 1], and `seconds` of training."""

    validation: Validation
    share: float
    seconds: float

    @property
    def step(self) -> int:
        return self.validation.step

    @property
    def miou(self) -> float:
        return self.validation.miou

    def to_json(self) -> dict[str, float]:
        """Returns it as the ledger has it: share, seconds and the scores by name."""
        return {**self.validation.to_json(), "share": self.share, "seconds": self.seconds}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TrialReport":
        """Returns what `to_json` gave."""
        scores = {name: value for name, value in values.items() if name not in ("share", "seconds")}
        return cls(Validation(**scores), values["share"], values["seconds"])


@dataclass(frozen=True)
class Trial:
    """One configuration that is tried.

    number: from 0 on; name: of the trial and its run directory, shown to people.
    values: of the hyperparameters. config: the whole configuration, as plain data.
    reports: its validations, the oldest first.
    seconds: of training over all attempts. reason: why it failed, was stopped or interrupted.
    costs: parameters and latency_ms, where they are an objective.
    """

    name: str
    number: int
    values: Values
    config: dict[str, Any]
    status: Status = "running"
    reason: str | None = None
    seconds: float = 0.0
    reports: tuple[TrialReport, ...] = ()
    costs: dict[str, float] = field(default_factory=dict)

    @property
    def run_uri(self) -> str:
        return str(self.config["run"]["uri"])

    @property
    def score(self) -> float | None:
        """mIoU on val at the last validation: the best one would favour trials that are validated often."""
        return self.reports[-1].miou if self.reports else None

    @property
    def share(self) -> float:
        """How much of its steps it trained, as far as it was validated, in [0, 1]."""
        return self.reports[-1].share if self.reports else 0.0

    def parsed(self) -> ExperimentConfig:
        return parse_config(self.config)


@dataclass(frozen=True)
class End:
    """How a trial ended, as it reports itself; `trace`: of an unexpected exception."""

    status: Status
    reason: str | None
    seconds: float
    reports: tuple[TrialReport, ...]
    costs: dict[str, float] = field(default_factory=dict)
    trace: str | None = None


class Ledger:
    """All trials of a sweep at `uri`; one process writes."""

    def __init__(self, uri: str, retry_seconds: float = 0.0) -> None:
        """Reads what is there; trials that ended without a driver are closed.

        Args:
            retry_seconds: for how long recording an event is retried, beyond what `storage` does anyway.
        """
        self.uri, self._retry_seconds = uri, 0.0
        found = [read_trial(uri, name) for name in begun_trials(uri)]
        self._trials = {trial.name: trial for trial in sorted(found, key=lambda trial: trial.number)}
        for trial in list(self):
            if trial.status == "running":
                self.close(trial.name)
        self._retry_seconds = retry_seconds

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials.values())

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, name: str) -> Trial:
        return self._trials[name]

    def put(self, trial: Trial) -> Trial:
        """Writes a trial, new or changed."""
        where = _where(self.uri, "ledger", trial.name)
        storage.until_answered(lambda: storage.write_json(where, _plain(trial)), self._retry_seconds)
        self._trials[trial.name] = trial
        return trial

    def note(self, name: str, report: TrialReport, costs: dict[str, float]) -> Trial:
        """Adds a validation; one of the same step, from an earlier attempt, is replaced."""
        trial = self[name]
        kept = tuple(other for other in trial.reports if other.step < report.step)
        return self.put(
            replace(trial, reports=(*kept, report), seconds=max(trial.seconds, report.seconds), costs=costs)
        )

    def close(self, name: str, otherwise: Status | None = None, reason: str | None = None) -> Trial:
        """Records how a trial ended by its own report; without one, as `otherwise` (None: it stays as it is)."""
        trial = self[name]
        end = storage.until_answered(lambda: _read_end(self.uri, name), self._retry_seconds)
        if end is None:
            return trial if otherwise is None else self.put(replace(trial, status=otherwise, reason=reason))
        return self.put(
            replace(
                trial, status=end.status, reason=end.reason, seconds=max(trial.seconds, end.seconds),
                reports=end.reports, costs=end.costs or trial.costs,
            )
        )  # fmt: skip

    def reopen(self, name: str) -> Trial:
        """Makes an unfinished trial ready to be resumed."""
        storage.until_answered(lambda: storage.delete(_where(self.uri, "ended", name)), self._retry_seconds)
        return self.put(replace(self[name], status="running", reason=None))


def begun_trials(uri: str) -> list[str]:
    """Returns the names of the trials that have begun; nothing is written."""
    names = storage.list_names(storage.join(uri, "ledger"))
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def read_trial(uri: str, name: str) -> Trial:
    """Reads one trial of the sweep at `uri`."""
    return Trial(**_parsed(storage.read_text(_where(uri, "ledger", name))))


def _read_end(uri: str, name: str) -> End | None:
    where = _where(uri, "ended", name)
    return End(**_parsed(storage.read_text(where))) if storage.exists(where) else None


def write_end(uri: str, name: str, end: End) -> None:
    """Writes how a trial ended; called by the trial itself."""
    storage.write_json(_where(uri, "ended", name), _plain(end))


def _plain(event: Trial | End) -> dict[str, object]:
    return {**asdict(event), "reports": [report.to_json() for report in event.reports]}


def _parsed(text: str) -> dict[str, Any]:
    plain = json.loads(text)
    return {**plain, "reports": tuple(map(TrialReport.from_json, plain["reports"]))}


def _where(uri: str, folder: str, name: str) -> str:
    return storage.join(uri, folder, f"{name}.json")
