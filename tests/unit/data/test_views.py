"""Colour on the device: contrast and brightness by hand, padding at the mean, the same seeds the same view."""

import numpy as np
import pytest
import torch

from foodseg.config.augment import AugmentConfig
from foodseg.data.views import jittered_view, real_pixels

MEAN = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
WHOLE = torch.tensor([[0, 0, 2, 2]], dtype=torch.int32)


def grey(*values: int) -> torch.Tensor:
    """One picture (1, 3, 2, 2) of the four values."""
    return torch.tensor(values, dtype=torch.uint8).view(1, 1, 2, 2).expand(1, 3, 2, 2)


def jitter(**changes: object) -> AugmentConfig:
    return AugmentConfig.model_validate({"contrast": (1, 1), "brightness": 0, **changes})


def test_padding_is_the_mean_of_each_channel() -> None:
    extent = torch.tensor([[0, 0, 1, 2]], dtype=torch.int32)
    view = jittered_view(grey(255, 255, 7, 7), extent, MEAN, torch.tensor([3]), AugmentConfig())
    for channel in range(3):
        assert torch.equal(view[0, channel, 1], MEAN[0, channel, 0].expand(2))
    assert (view[0, :, 0] > 0.7).all()


@pytest.mark.parametrize(
    ("contrast", "expected"),
    [(1.0, [0, 0.2, 0.6, 1]), (0.5, [0.25, 0.35, 0.55, 0.75]), (2.0, [0, 0, 0.7, 1])],  # about 0.5, then cut
)
def test_contrast_by_hand(contrast: float, expected: list[float]) -> None:
    view = jittered_view(grey(0, 51, 153, 255), WHOLE, MEAN, torch.tensor([9]), jitter(contrast=(contrast, contrast)))
    assert view.dtype == torch.float32
    torch.testing.assert_close(view[0, 2].flatten(), torch.tensor(expected))


def test_brightness_shifts_all_pixels_of_a_picture_alike_within_its_range() -> None:
    seeds = torch.arange(300)
    pictures = grey(102, 102, 128, 153).expand(300, 3, 2, 2)
    view = jittered_view(pictures, WHOLE.expand(300, 4), MEAN, seeds, jitter(brightness=0.2))
    shift = view - pictures / 255
    torch.testing.assert_close(shift, shift[:, :1, :1, :1].expand_as(shift))
    each = shift[:, 0, 0, 0]
    assert -0.2 <= each.min() < -0.18 and 0.18 < each.max() <= 0.2 and abs(each.mean()) < 0.03


def test_each_row_has_its_own_draw_whatever_stands_beside_it() -> None:
    augment, seeds = AugmentConfig(), torch.tensor([11, 12, 2**62, 11])
    pictures = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 2, 2), np.uint8)).expand(4, 3, 2, 2)
    view = jittered_view(pictures, WHOLE.expand(4, 4), MEAN, seeds, augment)
    again = jittered_view(pictures[:1], WHOLE, MEAN, seeds[2:3], augment)
    assert torch.equal(view[2], again[0])
    assert torch.equal(view[0], view[3]) and not torch.equal(view[0], view[1])


def test_real_pixels() -> None:
    extent = torch.tensor([[0, 0, 2, 3], [1, 2, 3, 4], [0, 0, 0, 0]], dtype=torch.int32)
    expected = [
        [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]],
        [[0, 0, 0, 0]] * 3,
    ]
    assert real_pixels(extent, 3, 4).int().tolist() == expected
