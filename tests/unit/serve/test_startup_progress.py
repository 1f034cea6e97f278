"""The lines that the start of an endpoint prints, and the estimate in them."""

import re
import time

import pytest

from foodseg.serve.startup_progress import StartupProgress


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_each_stage_is_printed_with_the_time_left() -> None:
    clock, lines = Clock(), []
    with StartupProgress(
        [("starting Ray", 6.0), ("starting Serve", 6.0), ("loading meals", 20.0)], lines.append, 60, clock
    ) as s:
        s.next()
        clock.now = 12.0  # twice the usual time
        s.next()
        clock.now = 24.0
        s.next()
        clock.now = 40.0
        s.note("Segmenter is ready")
        assert s.times() == ": 40 s so far, about 24 s left"
    assert lines == [
        "starting the endpoint: about 32 s",
        "[1/3] starting Ray",
        "[2/3] starting Serve: 12 s so far, about 52 s left",
        "[3/3] loading meals: 24 s so far, about 40 s left",
        "  Segmenter is ready (40 s)",
        "the endpoint is ready after 40 s",
    ]


def test_a_long_stage_is_repeated_until_it_ends() -> None:
    lines: list[str] = []
    with StartupProgress([("loading meals", 1.0)], lines.append, 0.02) as progress:
        progress.next()
        end = time.monotonic() + 10
        while sum("still loading meals" in line for line in lines) < 3:
            assert time.monotonic() < end
            time.sleep(0.01)
    assert any(re.search(r"still loading meals: \d+ s so far, about \d+ s left", line) for line in lines)
    said = len(lines)
    time.sleep(0.1)
    assert len(lines) == said


def test_a_start_that_fails_does_not_say_that_it_is_ready() -> None:
    lines: list[str] = []
    with pytest.raises(ValueError), StartupProgress([("loading", 1.0)], lines.append) as progress:
        progress.next()
        raise ValueError
    assert not any("ready" in line for line in lines)
