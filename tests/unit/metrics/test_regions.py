"""F1 of classified regions: by hand, and as torchmetrics has it."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassF1Score

from foodseg.metrics.regions import region_scores

NAMES = ("background", "rice", "egg", "tofu")


def test_by_hand() -> None:
    # rice: 3 regions, 2 right, 1 called egg; egg: 2 regions, both right; tofu: called once, never there
    matrix = np.zeros((4, 4), np.int64)
    matrix[1, 1], matrix[1, 2], matrix[2, 2], matrix[2, 3] = 2, 1, 2, 1
    found = region_scores(matrix, NAMES, least=3, pairs=[(1, 2), (0, 3)])
    assert found.regions == 6 and found.top1 == pytest.approx(4 / 6)
    assert [(each.name, each.regions) for each in found.classes] == [("rice", 3), ("egg", 3)]
    rice, egg = found.classes
    assert (rice.precision, rice.recall, rice.f1) == (1, pytest.approx(2 / 3), pytest.approx(0.8))
    assert (egg.precision, egg.recall, egg.f1) == (*[pytest.approx(2 / 3)] * 3,)
    assert found.macro_f1 == pytest.approx((0.8 + 2 / 3) / 2) and found.counted == 2
    (pair,) = found.pairs  # neither background nor tofu has a region
    assert pair.names == ("rice", "egg") and pair.regions == 6
    assert pair.f1 == pytest.approx((0.8 + 2 * 2 / (3 + 3)) / 2)


def test_only_classes_with_enough_regions_count_in_macro_f1() -> None:
    matrix = np.diag([0, 5, 4, 0])
    assert region_scores(matrix, NAMES, least=5).counted == 1
    assert region_scores(matrix, NAMES, least=6).macro_f1 is None


def test_no_region() -> None:
    found = region_scores(np.zeros((4, 4), np.int64), NAMES, pairs=[(1, 2)])
    assert (found.regions, found.top1, found.macro_f1, found.classes, found.pairs) == (0, None, None, (), ())


def test_a_pair_counts_what_is_given_a_third_class_against_its_own() -> None:
    matrix = np.zeros((4, 4), np.int64)
    matrix[1, 3], matrix[1, 1], matrix[3, 1] = 1, 1, 7  # tofu called rice is none of the pair's regions
    (pair,) = region_scores(matrix, NAMES, pairs=[(1, 2)]).pairs
    assert pair.f1 == pytest.approx(2 / 3) and pair.regions == 2


def test_as_torchmetrics() -> None:
    drawn = np.random.default_rng(0)
    truth, predicted = drawn.integers(0, 4, 60), drawn.integers(0, 4, 60)
    matrix = np.zeros((4, 4), np.int64)
    np.add.at(matrix, (truth, predicted), 1)
    found = region_scores(matrix, NAMES)
    expected = MulticlassF1Score(num_classes=4, average="none")(torch.tensor(predicted), torch.tensor(truth))
    assert [each.f1 for each in found.classes] == pytest.approx(expected.tolist())
    assert found.macro_f1 == pytest.approx(float(expected.mean()))
