"""How long a sweep waits after trials were interrupted, worked out by hand."""

import itertools

import pytest

from foodseg.tune import backoff
from foodseg.tune.backoff import Backoff


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(backoff, "time", made)
    return made


def test_pauses_double_up_to_ten_minutes(clock: Clock) -> None:
    backing_off, pauses = Backoff(), []
    assert not backing_off.is_pausing() and backing_off.seconds_left == 0
    for number in range(7):
        backing_off.interrupted(f"trial-{number}")
        pauses.append(backing_off.seconds_left)
        clock.now += pauses[-1] - 1
        assert backing_off.is_pausing()
        clock.now += 1
        assert not backing_off.is_pausing()
    assert pauses == [30, 60, 120, 240, 480, 600, 600]


def test_trials_that_run_side_by_side_are_interrupted_once(clock: Clock) -> None:
    backing_off = Backoff()
    for name in "abcd":
        backing_off.interrupted(name)
        clock.now += 1
    assert backing_off.seconds_left == 26


def test_a_trial_that_ends_resets_the_pause(clock: Clock) -> None:
    backing_off = Backoff()
    backing_off.interrupted("a")
    clock.now += 30
    backing_off.interrupted("a")
    backing_off.ended()
    assert not backing_off.is_pausing()
    backing_off.interrupted("b")
    assert backing_off.seconds_left == 30


def test_a_trial_is_tried_three_times_while_others_end(clock: Clock) -> None:
    backing_off, tries = Backoff(), []
    for _ in range(3):
        tries.append(backing_off.interrupted("a"))
        clock.now += 1000
        backing_off.ended()
    assert tries == [True, True, False]
    assert backing_off.interrupted("b")


@pytest.mark.parametrize("trials", [1, 4, 1000])
def test_a_service_that_all_need_is_waited_for_some_six_hours(clock: Clock, trials: int) -> None:
    backing_off, names = Backoff(), itertools.cycle(range(trials))
    while not backing_off.is_exhausted():
        assert backing_off.interrupted(f"trial-{next(names)}")
        clock.now += backing_off.seconds_left
    # 30 + 60 + 120 + 240 + 480 and 36 times 600 seconds, without a wait after the last
    assert clock.now == 930 + 36 * 600
