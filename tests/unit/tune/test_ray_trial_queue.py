"""Which trial Tune is given next, and what it receives while trials are interrupted; no Ray."""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from foodseg.tune import backoff
from foodseg.tune.ray_trial_queue import Budget, Limits, Plan, TrialQueue
from foodseg.tune.search import ListedSearch
from foodseg.tune.trials import Ledger
from tests.support.synthetic_set import synthetic_config


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        ledger=Ledger(str(tmp_path / "sweep")),
        search=ListedSearch([{"number": 0}, {"number": 1}]),
        configure=lambda number, values: synthetic_config("data", tmp_path / f"run-{number}"),
        name=lambda number, values: f"trial-{number}",
        limits=Limits(),
    )


def feed_of(plan: Plan) -> TrialQueue:
    return TrialQueue(plan, Budget(plan, workers=1))


def asked(feed: TrialQueue) -> Any:
    suggestion = feed.suggest("an id")
    return suggestion["trial"] if isinstance(suggestion, dict) else suggestion


def test_one_after_the_other_and_no_end_while_one_may_come_back(plan: Plan) -> None:
    feed = feed_of(plan)
    assert [asked(feed), asked(feed), asked(feed)] == ["trial-0", "trial-1", None]
    feed.ended(plan.ledger.close("trial-0", "finished"))
    assert asked(feed) is None
    feed.ended(plan.ledger.close("trial-1", "failed"))
    assert asked(feed) == TrialQueue.FINISHED


def test_an_interrupted_trial_comes_again_after_a_pause(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.5)
    feed = feed_of(plan)
    assert [asked(feed), asked(feed)] == ["trial-0", "trial-1"]
    feed.ended(plan.ledger.close("trial-0", "interrupted", "no room"))
    assert asked(feed) is None  # the other one runs, and Tune looks after it
    feed.ended(plan.ledger.close("trial-1", "interrupted", "no room"))
    began = time.monotonic()
    assert [asked(feed), asked(feed)] == ["trial-0", "trial-1"]
    assert 0.3 < time.monotonic() - began < 5


def test_ctrl_c_ends_a_pause(plan: Plan) -> None:
    feed = feed_of(plan)
    assert asked(feed) == "trial-0"
    feed.ended(plan.ledger.close("trial-0", "interrupted", "no room"))  # for 30 seconds
    before = signal.signal(signal.SIGINT, lambda *_: None)  # as Tune, which would keep waiting
    try:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            asked(feed)
        assert time.monotonic() - began < 10
    finally:
        signal.signal(signal.SIGINT, before)
