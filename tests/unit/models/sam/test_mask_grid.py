"""The grid of clicks: coarse first, without points that a fine mask has settled."""

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_point_grid

from foodseg.models.sam import mask_grid
from foodseg.models.sam.click_decoder import ClickMasks
from foodseg.models.sam.embedding import SamEmbedding, SamMask
from foodseg.models.sam.mask_grid import MaskGrid, coarse_first, masks_of_everything
from tests.unit.models.sam.test_sam import tiny_sam


@pytest.mark.parametrize("side", [1, 2, 5, 8, 16])
def test_any_first_few_points_are_spread_over_the_image(side: int) -> None:
    points = coarse_first(side)
    assert sorted(map(tuple, points)) == sorted(map(tuple, build_point_grid(side)))
    if side in (8, 16):
        quarters = {(x > 0.5, y > 0.5) for x, y in points[:4]}
        assert len(quarters) == 4
        cells = {(int(x * 4), int(y * 4)) for x, y in points[:16]}
        assert len(cells) == 16


class Squares:
    """A decoder whose click finds the square of the image's quarter that it lies in, and the whole image."""

    def __init__(self) -> None:
        self.clicks: list[tuple[float, float]] = []

    def masks(self, clicks: torch.Tensor, least: float) -> ClickMasks:
        logits = torch.full((2 * len(clicks), 256, 256), -10.0)
        for index, (x, y) in enumerate(clicks.tolist()):
            self.clicks.append((x, y))
            row, column = int(y > 512) * 128, int(x > 512) * 128
            logits[2 * index, row : row + 128, column : column + 128] = 10
            logits[2 * index + 1] = 10
        numbers = torch.arange(len(clicks)).repeat_interleave(2)
        return ClickMasks(logits, torch.tensor([0.95, 0.9]).repeat(len(clicks)), numbers)


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> Squares:
    decoder = Squares()
    monkeypatch.setattr(mask_grid, "ClickDecoder", lambda sam, features: decoder)
    return decoder


def embedded() -> tuple[Sam, SamEmbedding]:
    """A model of 1024 pixels, as the published ones have, and an image of 100 x 100 pixels."""
    sam = tiny_sam()
    sam.image_encoder.img_size = 1024
    return sam, SamEmbedding(torch.zeros(1, 256, 64, 64), 100, 100, (1024, 1024))


@pytest.mark.parametrize(("settled", "clicks"), [(0.3, 4), (0.2, 64), (0.0, 64)])
def test_points_in_a_fine_mask_are_left_out(squares: Squares, settled: float, clicks: int) -> None:
    grid = MaskGrid(points_per_side=8, points_per_batch=1, settled=settled)
    found = masks_of_everything(*embedded(), grid)
    # the finest mask of a click settles the points in it, if it is no larger than that share of the image
    assert len(squares.clicks) == clicks
    assert shares(found) == pytest.approx([0.25, 0.25, 0.25, 0.25, 1.0], abs=0.02)


def test_what_was_found_in_time_is_returned(squares: Squares) -> None:
    asked = iter([False, False, True])
    grid = MaskGrid(points_per_side=8, points_per_batch=1, settled=0)
    found = masks_of_everything(*embedded(), grid, stop=lambda: next(asked))
    assert len(squares.clicks) == 2 and not list(asked)
    assert shares(found) == pytest.approx([0.25, 0.25, 1.0], abs=0.02)
    assert masks_of_everything(*embedded(), grid, stop=lambda: True) == []


def shares(found: list[SamMask]) -> list[float]:
    return sorted(np.count_nonzero(one.mask) / one.mask.size for one in found)
