"""p-values of the bootstrap, and Holm's correction, by hand. Draws and intervals: tests/unit/eval/test_compare.py."""

import numpy as np
import pytest

from foodseg.metrics.bootstrap import holm, p_value


@pytest.mark.parametrize(
    ("drawn", "p"),
    [
        ([0.1] * 99, 2 * 1 / 100),
        ([-0.1] * 99, 2 * 1 / 100),
        ([0.1] * 97 + [-0.1, 0.0], 2 * 3 / 100),  # a draw of no difference is not in favour of one
        ([0.1, -0.1], 1.0),  # 2 x 2/3
        ([0.0] * 99, 1.0),
        ([0.1] * 49 + [np.nan] * 50, 2 * 1 / 50),
        ([np.nan], None),
    ],
)
def test_twice_the_share_on_the_other_side(drawn: list[float], p: float | None) -> None:
    assert p_value(np.array(drawn)) == (None if p is None else pytest.approx(p))


@pytest.mark.parametrize(
    ("given", "adjusted"),
    [
        ([], []),
        ([0.03], [0.03]),
        # sorted 0.005, 0.01, 0.03, 0.04: x 4, x 3, x 2, and 0.04 x 1 is raised to the one before
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.02, 0.02, 0.02], [0.06, 0.06, 0.06]),
        ([0.9, 0.6], [1.0, 1.0]),
    ],
)
def test_holm(given: list[float], adjusted: list[float]) -> None:
    assert holm(given) == pytest.approx(adjusted)
