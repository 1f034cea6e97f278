"""How long a sweep waits after trials were interrupted, worked out by hand."""

import itertools

import pytest

from foodseg.tune import backoff
from foodseg.tune.backoff import Patience


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
    waiting, pauses = Patience(), []
    assert not waiting.lasts() and waiting.seconds_left == 0
    for number in range(7):
        waiting.interrupted(f"trial-{number}")
        pauses.append(waiting.seconds_left)
        clock.now += pauses[-1] - 1
        assert waiting.lasts()
        clock.now += 1
        assert not waiting.lasts()
    assert pauses == [30, 60, 120, 240, 480, 600, 600]


def test_trials_that_run_side_by_side_are_interrupted_once(clock: Clock) -> None:
    waiting = Patience()
    for name in "abcd":
        waiting.interrupted(name)
        clock.now += 1
    assert waiting.seconds_left == 26


def test_a_trial_that_ends_ends_the_pause(clock: Clock) -> None:
    waiting = Patience()
    waiting.interrupted("a")
    clock.now += 30
    waiting.interrupted("a")
    waiting.ended()
    assert not waiting.lasts()
    waiting.interrupted("b")
    assert waiting.seconds_left == 30


def test_a_trial_is_tried_three_times_while_others_come_to_their_end(clock: Clock) -> None:
    waiting, tries = Patience(), []
    for _ in range(3):
        tries.append(waiting.interrupted("a"))
        clock.now += 1000
        waiting.ended()
    assert tries == [True, True, False]
    assert waiting.interrupted("b")


@pytest.mark.parametrize("trials", [1, 4, 1000])
def test_what_all_lack_is_waited_for_some_six_hours(clock: Clock, trials: int) -> None:
    waiting, names = Patience(), itertools.cycle(range(trials))
    while not waiting.is_over():
        assert waiting.interrupted(f"trial-{next(names)}")
        clock.now += waiting.seconds_left
    # 30 + 60 + 120 + 240 + 480 and 36 times 600 seconds, the last of which nobody waits for
    assert clock.now == 930 + 36 * 600
