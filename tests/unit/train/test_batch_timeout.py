"""Only the time counts that a rank waits: a consumer may pause as long as it likes."""

import threading
import time
from collections.abc import Iterator

import pytest

from foodseg.errors import RetryLater, UserError
from foodseg.train.batch_timeout import within


def numbers(count: int, seconds: float = 0.0) -> Iterator[int]:
    for number in range(count):
        time.sleep(seconds)
        yield number


def test_every_item_in_order() -> None:
    assert list(within(numbers(50), 5)) == list(range(50))
    assert list(within([], 5)) == []


def test_a_consumer_may_pause_longer_than_the_limit() -> None:
    seen = []
    for number in within(numbers(4), 0.2):
        time.sleep(0.5)
        seen.append(number)
    assert seen == [0, 1, 2, 3]


def test_a_slow_stream_within_the_limit_is_not_starvation() -> None:
    assert list(within(numbers(5, 0.1), 5)) == [0, 1, 2, 3, 4]  # half a second in all


def test_a_starved_consumer_gets_one_sentence_after_what_was_ready() -> None:
    never = threading.Event()

    def stream() -> Iterator[int]:
        yield 7
        never.wait()

    stalled = within(stream(), 0.3)
    assert next(stalled) == 7
    time.sleep(0.5)  # does not count
    began = time.monotonic()
    with pytest.raises(RetryLater, match=r"^no image arrived for 0\.3 s: reading or decoding has stalled; [^\n]*$"):
        next(stalled)
    assert 0.2 < time.monotonic() - began < 5
    never.set()


def test_the_first_item_has_its_own_limit() -> None:
    assert list(within(numbers(2, 0.4), 5, first=5)) == [0, 1]

    def slow_start() -> Iterator[int]:
        time.sleep(0.8)
        yield from range(3)

    assert list(within(slow_start(), 0.3, first=10)) == [0, 1, 2]
    with pytest.raises(RetryLater, match=r"^no image arrived for 0\.1 s"):
        next(within(slow_start(), 10, first=0.1))


def test_an_error_of_the_stream_arrives_as_it_is() -> None:
    def stream() -> Iterator[int]:
        yield 1
        raise UserError("row 3 is damaged")

    found = within(stream(), 5)
    assert next(found) == 1
    with pytest.raises(UserError, match=r"^row 3 is damaged$"):
        next(found)


def test_a_consumer_that_leaves_has_ended_the_stream_and_its_thread() -> None:
    ended = []

    class Stream:  # as Ray Data's: each iteration is a generator of its own
        def __iter__(self) -> Iterator[int]:
            try:
                yield from numbers(1000, 0.01)
            finally:
                time.sleep(0.2)
                ended.append(True)

    before = threading.active_count()
    found = within(Stream(), 5)
    next(found)
    assert threading.active_count() == before + 1
    found.close()
    assert ended == [True]
    assert threading.active_count() == before
