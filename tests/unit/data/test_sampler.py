"""The training order: a pure function of (seed, position), exactly once, in windows, for any number of workers."""

import pickle

import numpy as np
import pytest

from foodseg.config.data import WINDOW
from foodseg.data.rng import position_seed
from foodseg.data.sampler import TrainingOrder, rank_blocks, repeat_factors

LAYOUTS = [([1], 1), ([7], 4), ([3, 4, 5], 6), ([1000, 1000, 400], 32), ([5000], 8), ([1000] * 7 + [123], 48)]


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(("shards", "batch"), LAYOUTS)
def test_each_row_exactly_once_per_epoch(shards: list[int], batch: int, seed: int) -> None:
    order, rows = TrainingOrder(shards, seed, batch), sum(shards)
    epochs, found = order.rows(0, 3 * rows)
    np.testing.assert_array_equal(epochs, np.repeat([0, 1, 2], rows))
    for epoch in range(3):
        np.testing.assert_array_equal(np.sort(found[epochs == epoch]), np.arange(rows))
    if rows > 100:
        assert not np.array_equal(found[:rows], found[rows : 2 * rows])
        assert not np.array_equal(found[:rows], np.arange(rows))


def test_any_slice_gives_the_same_rows_as_the_whole() -> None:
    order = TrainingOrder([1000, 1000, 500], 3, 8)
    epochs, rows = order.rows(0, 7600)
    for start, stop in [(0, 0), (2496, 2504), (2499, 2501), (7, 5100), (7599, 7600)]:  # an epoch ends at 2500
        again = TrainingOrder([1000, 1000, 500], 3, 8).rows(start, stop)
        np.testing.assert_array_equal(again[0], epochs[start:stop])
        np.testing.assert_array_equal(again[1], rows[start:stop])


def test_a_batch_may_straddle_two_epochs() -> None:
    epochs, rows = TrainingOrder([3, 2], 0, 4).rows(4, 8)
    assert epochs.tolist() == [0, 1, 1, 1]
    assert len(set(rows[1:].tolist())) == 3


def test_a_pickled_copy_gives_the_same_order_and_carries_no_shuffle() -> None:
    order = TrainingOrder([1000] * 4, 5, 16, repeats=np.linspace(1, 2, 4000))
    expected = order.rows(5000, 9000)
    data = pickle.dumps(order)
    copy = pickle.loads(data)
    np.testing.assert_array_equal(copy.rows(5000, 9000), expected)
    np.testing.assert_array_equal(copy.seeds(5000, 5010), order.seeds(5000, 5010))
    assert len(data) < 2 * 4000 * 8


def test_the_seed_decides() -> None:
    first, again, other = (TrainingOrder([500], seed, 8).rows(0, 500)[1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("window", [WINDOW, 100, 1])
@pytest.mark.parametrize(("rows", "batch"), [(100, 8), (4095, 8), (4096, 8), (9000, 48), (20_000, 300), (7123, 3000)])
def test_windows_have_so_many_rows_and_borders_between_units(rows: int, batch: int, window: int) -> None:
    order = TrainingOrder([rows], 0, batch, window=window)
    assert order.unit % batch == 0 and window <= order.unit < window + batch
    for epoch in range(4):
        borders = order._window_borders(epoch)
        assert (borders[0], borders[-1]) == (0, rows)
        assert min(np.diff(borders)) >= min(window, rows)
        assert all((epoch * rows + border) % order.unit == 0 for border in borders[1:-1])
        assert max(np.diff(borders)) < order.unit + 2 * window
        assert sorted(order.rows(epoch * rows, (epoch + 1) * rows)[1].tolist()) == list(range(rows))


def test_rows_are_shuffled_within_windows_of_the_shards_in_a_new_order() -> None:
    """A reader that takes one window touches few shards; over epochs the shards move."""
    order = TrainingOrder([1024] * 16, 0, 64)
    firsts = set()
    for epoch in range(4):
        shard = order.rows(epoch * 16_384, (epoch + 1) * 16_384)[1] // 1024
        windows = shard.reshape(-1, 2048)
        assert all(len(set(window.tolist())) == 2 for window in windows)
        assert all((window[:1024] == window[0]).mean() < 0.6 for window in windows), "mixed, not one after the other"
        firsts.add(tuple(windows[0]))
    assert len(firsts) == 4


@pytest.mark.parametrize(
    "factors",
    [np.array([1.0, 1.0, 2.5, 4.0, 1.3]), np.linspace(1, 3, 333), np.linspace(0.01, 0.6, 50), np.array([3.0, 1e-9])],
)
def test_repeat_factor_draws(factors: np.ndarray) -> None:
    order = TrainingOrder([len(factors)], 0, 4, repeats=factors)
    length = round(factors.sum())
    assert order.epoch_length == length
    epochs, rows = order.rows(0, 200 * length)
    draws = np.stack([np.bincount(rows[epochs == epoch], minlength=len(factors)) for epoch in range(200)])
    assert (draws.sum(1) == length).all()
    scaled = factors * length / factors.sum()
    # draws of an epoch are floor or ceil of the factor: the mean of 200 is off by 0.18 at five deviations
    assert ((draws >= np.floor(scaled - 1e-9)) & (draws <= np.ceil(scaled + 1e-9))).all()
    np.testing.assert_allclose(draws.mean(0), scaled, atol=0.18)


@pytest.mark.parametrize("seed", range(5))
def test_whole_factors_are_drawn_exactly(seed: int) -> None:
    _, rows = TrainingOrder([3, 1], seed, 2, repeats=np.array([1.0, 3.0, 2.0, 1.0])).rows(0, 7)
    assert np.bincount(rows).tolist() == [1, 3, 2, 1]


def test_repeat_factors_by_hand() -> None:
    ids = [[1], [1, 2], [1, 1], [], [3]]  # class 1 in 3 of 5 rows, 2 and 3 in 1 of 5
    assert repeat_factors(ids, 5, 0, 4) is None
    factor = repeat_factors(ids, 5, 0.8, 4)
    np.testing.assert_allclose(factor, [(0.8 / 0.6) ** 0.5, 2, (0.8 / 0.6) ** 0.5, 1, 2])
    np.testing.assert_allclose(repeat_factors(ids, 5, 0.8, 1.5), [(0.8 / 0.6) ** 0.5, 1.5, (0.8 / 0.6) ** 0.5, 1, 1.5])
    np.testing.assert_allclose(repeat_factors(ids, 5, 0.2, 4), 1)


def test_shares_are_of_the_labelled_rows() -> None:
    """Unlabelled rows do not count in the shares of classes."""
    labelled = [[1], [1, 2], [1, 1], [3]]
    alone = repeat_factors(labelled, 4, 0.8, 4)
    np.testing.assert_allclose(repeat_factors([*labelled, *([[]] * 96)], 4, 0.8, 4), [*alone, *([1] * 96)])


def test_position_seeds_differ_and_fit_63_bits() -> None:
    seeds = TrainingOrder([10], 0, 2).seeds(0, 1000)
    assert seeds.dtype == np.int64 and seeds.min() >= 0
    assert len(set(seeds.tolist())) == 1000
    assert seeds[17] == position_seed(0, 17) != position_seed(1, 17)
    assert seeds[17] == TrainingOrder([99], 0, 7).seeds(17, 18)[0], "of the position, not of the data or the batch"


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("start", "stop"), [(0, 50), (13, 50), (49, 50), (7, 7)])
@pytest.mark.parametrize(("batch", "rows_per_block"), [(6, 64), (6, 1), (48, 64), (384, 64)])
def test_dealing_blocks_in_turn_gives_each_rank_its_positions(
    batch: int, rows_per_block: int, start: int, stop: int, world_size: int
) -> None:
    blocks = rank_blocks(start, stop, batch, world_size, rows_per_block)
    assert len(blocks) % world_size == 0, "equal splits: no rank waits for another's last block"
    share = batch // world_size
    for rank in range(world_size):
        got = [part for block in blocks[rank::world_size] for part in block]
        expected = [[s * batch + rank * share + slot for slot in range(share)] for s in range(start, stop)]
        assert [list(part) for part in got] == expected
    for block in blocks[:-world_size]:
        rows = sum(map(len, block))
        assert rows >= rows_per_block and rows - share < rows_per_block, "no longer than needed"
    # dealt in turn, ranks are never more than one block apart
    assert len({len(block) for block in blocks[-world_size:]}) <= 1


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize(("shards", "batch"), [([50, 31], 6), ([700], 12)])
def test_all_ranks_together_train_each_row_once_per_epoch(shards: list[int], batch: int, world_size: int) -> None:
    order, steps = TrainingOrder(shards, 1, batch), sum(shards) // batch
    blocks = rank_blocks(0, steps, batch, world_size)
    positions = [position for block in blocks for part in block for position in part]
    assert sorted(positions) == list(range(steps * batch))
    rows = np.concatenate([order.rows(part.start, part.stop)[1] for block in blocks for part in block])
    assert len(set(rows.tolist())) == len(rows) > sum(shards) - batch, "at most one global batch is dropped"
