"""Order, errors, and how far ahead it goes."""

import threading

import pytest

from foodseg.data.read_ahead import read_ahead


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(count, ahead):
    assert list(read_ahead(lambda n: n * n, range(count), ahead)) == [n * n for n in range(count)]


def test_it_computes_the_next_items_and_no_more():
    began = {n: threading.Event() for n in range(6)}
    results = read_ahead(lambda n: (began[n].set(), n)[1], range(6), 2)
    assert next(results) == 0
    assert began[1].wait(5) and began[2].wait(5)
    assert not began[3].is_set()
    assert list(results) == [1, 2, 3, 4, 5]


def test_an_error_comes_when_it_is_the_turn_of_its_item():
    results = read_ahead(lambda n: 1 // (2 - n), range(5), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_whoever_stops_early_waits_for_no_further_item():
    done = []
    results = read_ahead(lambda n: done.append(n), range(100), 1)
    next(results)
    results.close()
    assert len(done) <= 2
