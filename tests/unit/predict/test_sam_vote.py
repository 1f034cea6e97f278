"""The SAM vote on label maps of a few pixels, worked out by hand."""

import numpy as np
import pytest

from foodseg.predict.sam_vote import (
    Ballot,
    count_votes,
    doubtful,
    paint,
    refined_confidences,
    second_opinion,
)

IDS = np.array(
    [
        [0, 0, 1, 1],
        [0, 1, 1, 1],
        [2, 2, 2, 1],
        [2, 2, 3, 3],
    ],
    np.uint8,
)


def mask(*rows: str) -> np.ndarray:
    """`mask("..##", ...)`: True where there is a #."""
    return np.array([[char == "#" for char in row] for row in rows])


WHOLE = mask("####", "####", "####", "####")  # five of sixteen pixels have id 1, five have id 2
TOP = mask("####", "####", "....", "....")  # three 0, five 1
LEFT = mask("#...", "#...", "#...", "#...")  # 0, 0, 2, 2
CORNER = mask("....", "....", "..##", "..##")  # 2, 1, 3, 3
NOTHING = mask("....", "....", "....", "....")


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ([], [[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 2, 1], [2, 2, 3, 3]]),
        ([NOTHING], [[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 2, 1], [2, 2, 3, 3]]),
        ([TOP], [[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 2, 1], [2, 2, 3, 3]]),
        # 2 of 4 is a majority of 0.5, which counts; of two ids as frequent the smaller wins
        ([LEFT], [[0, 0, 1, 1], [0, 1, 1, 1], [0, 2, 2, 1], [0, 2, 3, 3]]),
        ([CORNER], [[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]),
        # the largest label of all has 5 of 16 pixels: no majority
        ([WHOLE], [[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 2, 1], [2, 2, 3, 3]]),
        # large to small, whatever the order of the list; each votes on the map as it was
        ([LEFT, TOP], [[0, 1, 1, 1], [0, 1, 1, 1], [0, 2, 2, 1], [0, 2, 3, 3]]),
        ([TOP, LEFT], [[0, 1, 1, 1], [0, 1, 1, 1], [0, 2, 2, 1], [0, 2, 3, 3]]),
        # of equal size the later one lies on top
        ([CORNER, mask("....", "....", ".##.", ".##.")], [[0, 0, 1, 1], [0, 1, 1, 1], [2, 2, 2, 3], [2, 2, 2, 3]]),
    ],
)  # fmt: skip
def test_vote(masks, expected):
    before = IDS.copy()
    voted = paint(IDS, masks, count_votes(IDS, masks))
    assert voted.tolist() == expected and voted.dtype == np.uint8
    assert (before == IDS).all() and voted is not IDS


def test_only_the_largest_masks_vote_and_the_cut_comes_before_the_majority():
    assert [ballot.mask for ballot in count_votes(IDS, [LEFT, TOP, CORNER], keep=2)] == [1, 0]
    assert count_votes(IDS, [LEFT, WHOLE], keep=1) == []


def test_majority_and_sixteen_bits():
    assert [(ballot.label, ballot.pixels) for ballot in count_votes(IDS, [WHOLE], majority=5 / 16)] == [(1, 16)]
    wide = IDS.astype(np.uint16) * 20_000
    voted = paint(wide, [CORNER], count_votes(wide, [CORNER]))
    assert voted.dtype == np.uint16 and (voted[2:, 2:] == 60_000).all()


def test_ballots():
    low_confidence = mask("#...", "....", "...#", "..##")
    assert count_votes(IDS, [LEFT, CORNER, TOP], low_confidence) == [
        Ballot(mask=2, label=1, pixels=8, majority=5 / 8, low_confidence=1 / 8),
        Ballot(mask=0, label=0, pixels=4, majority=2 / 4, low_confidence=1 / 4),
        Ballot(mask=1, label=3, pixels=4, majority=2 / 4, low_confidence=3 / 4),
    ]
    assert {ballot.low_confidence for ballot in count_votes(IDS, [LEFT, CORNER, TOP])} == {0.0}


def test_clip_is_asked_about_low_confidence_ingredients_only():
    ballots = [ballot(0, 1, 0.49), ballot(1, 0, 1.0), ballot(2, 3, 0.5), ballot(3, 2, 0.9)]
    assert [question.mask for question in doubtful(ballots)] == [2, 3]
    assert [question.mask for question in doubtful(ballots, low_confidence=0.9)] == [3]


def test_second_opinion_where_clip_is_certain():
    ballots = [ballot(0, 1, 0.0), ballot(1, 2, 0.8), ballot(2, 2, 0.8), ballot(3, 3, 0.8)]
    scores = [[0.2, 0.1, 0.7], [0.3, 0.29, 0.41], [0.0, 0.0, 1.0]]  # of ids 1, 2, 3
    decided = second_opinion(ballots, ballots[1:], scores)
    assert [(own.label, own.certainty) for own in decided] == [(1, None), (3, 0.7), (2, None), (3, 1.0)]
    assert second_opinion(ballots, [], []) == ballots


def test_the_whole_way_and_its_confidences():
    ballots = count_votes(IDS, [CORNER, TOP], CORNER)
    questions = doubtful(ballots)
    decided = second_opinion(ballots, questions, [[0.1, 0.1, 0.1, 0.1, 0.6]])
    ids = paint(IDS, [CORNER, TOP], decided)
    assert ids.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 5, 5], [2, 2, 5, 5]]
    # 0 and 3 have no pixel left, 5 came from CLIP
    assert refined_confidences(ids, {0: 0.9, 1: 0.8, 2: 0.7, 3: 0.3}, decided) == {1: 0.8, 2: 0.7, 5: 0.6}


def ballot(mask: int, label: int, low_confidence: float) -> Ballot:
    return Ballot(mask, label, 10, 1.0, low_confidence)
