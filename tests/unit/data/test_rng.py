"""Every stream draws what it has always checked: the numbers below were recorded before the streams had names."""

import numpy as np
import pytest

from foodseg.data.rng import RandomStream, dropout_seed, generator, position_seed
from foodseg.data.sampler import TrainingOrder

ROW_SEED = 2**62 + 5  # of a position: up to 63 bits

FIRST_DRAWS = {  # (stream, index): three draws below 2**32
    (RandomStream.SHARD_ORDER, (2,)): [4183294005, 129259524, 2416205543],
    (RandomStream.ROW_ORDER, (2, 5)): [3581060145, 1601721771, 3033420717],
    (RandomStream.OVERSAMPLING_OFFSET, (2,)): [3993761109, 2805626130, 1843794026],
    (RandomStream.PASTE_PARTNER, (4097,)): [3690065355, 3881983541, 2039679426],
    (RandomStream.STRONG_VIEW, ()): [2330962378, 3119812131, 3101487971],
    (RandomStream.CONDITIONING, ()): [1911021582, 1786821436, 2363508502],
    (RandomStream.COPY_PASTE, ()): [893640063, 1981666622, 3513570920],
    (RandomStream.CUTMIX, ()): [2527914312, 2460780582, 2880579654],
    (RandomStream.REGION, ()): [3159730222, 1561998877, 2743801080],
}


@pytest.mark.parametrize(("stream", "index"), FIRST_DRAWS, ids=lambda part: getattr(part, "name", None))
def test_the_first_draws_of_each_stream(stream: RandomStream, index: tuple[int, ...]) -> None:
    seed = 7 if stream.value[0] == "run" else ROW_SEED
    assert generator(seed, stream, *index).integers(2**32, size=3).tolist() == FIRST_DRAWS[stream, index]


def test_no_stream_is_left_out() -> None:
    checked = {stream for stream, _ in FIRST_DRAWS} | {RandomStream.AUGMENTATION}  # a seed, no generator: below
    assert checked == set(RandomStream)


def test_the_seeds_of_positions() -> None:
    expected = [2530781778362038830, 6665335680343557524, 2978675570923290119]
    assert [position_seed(7, position) for position in (0, 1, 4097)] == expected


def test_the_seeds_of_dropout() -> None:
    expected = [3280787490678261880, 7755983796401661950, 4703835390458004976]
    assert [dropout_seed(7, step, rank) for step, rank in ((0, 0), (0, 3), (5, 1))] == expected


def test_the_order_of_a_run_is_what_it_was() -> None:
    """Two epochs of three shards, each row once: shards and rows."""
    order = TrainingOrder([3, 4, 2], 7, 2)
    assert order.rows(0, 9)[1].tolist() == [4, 0, 1, 7, 5, 2, 6, 8, 3]
    assert order.rows(9, 18)[1].tolist() == [0, 5, 1, 6, 4, 8, 7, 2, 3]
    assert order.seeds(0, 2).tolist() == [2530781778362038830, 6665335680343557524]


def test_repeats_and_partners_of_a_run_are_what_they_were() -> None:
    order = TrainingOrder(
        [3, 4, 2], 7, 2, np.array([0.5, 1.5, 1, 1, 1.3, 1, 1, 0.7, 1]),
        paste=0.5, sources=np.array([0, 0, 0, 1, 1, 1, 1, 2, 2]), pastable=np.ones(9, bool),
    )  # fmt: skip
    assert order.rows(0, 9)[1].tolist() == [4, 1, 1, 7, 5, 2, 6, 8, 3]
    assert order.partners(0, 12).tolist() == [1, 8, -1, 3, -1, 7, -1, -1, -1, -1, -1, -1]
