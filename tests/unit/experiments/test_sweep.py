"""The score of a trial at a rung."""

from experiments.sweep.run import STEPS, _at_share


def test_the_score_at_a_rung_is_the_first_one_from_there_on() -> None:
    row = {"curve_step": [STEPS // 10, STEPS // 5, STEPS], "curve_miou": [0.1, 0.2, 0.5]}
    assert _at_share(row, 0.2) == 0.2 and _at_share(row, 0.21) == 0.5
