"""Colour on the device: each change by hand, padding at the mean, the same seeds the same view."""

import numpy as np
import pytest
import torch

from foodseg.config.augment import AugmentConfig
from foodseg.data.augment.photometric import jittered_view, plain_view, real_pixels, real_pixels_per_cell
from tests.support.compare import assert_close, close

MEAN = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
WHOLE = torch.tensor([[0, 0, 2, 2]], dtype=torch.int32)


def grey(*values: int) -> torch.Tensor:
    """One image (1, 3, 2, 2) of the four values."""
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
    assert_close(view[0, 2].flatten(), torch.tensor(expected))


def test_brightness_shifts_all_pixels_of_an_image_alike_within_its_range() -> None:
    seeds = torch.arange(300)
    images = grey(102, 102, 128, 153).expand(300, 3, 2, 2)
    view = jittered_view(images, WHOLE.expand(300, 4), MEAN, seeds, jitter(brightness=0.2))
    shift = view - images / 255
    assert_close(shift, shift[:, :1, :1, :1].expand_as(shift))
    each = shift[:, 0, 0, 0]
    assert -0.2 <= each.min() < -0.18 and 0.18 < each.max() <= 0.2 and abs(each.mean()) < 0.03


def test_each_row_has_its_own_draw_whatever_the_other_rows() -> None:
    augment, seeds = AugmentConfig(), torch.tensor([11, 12, 2**62, 11])
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 2, 2), np.uint8)).expand(4, 3, 2, 2)
    view = jittered_view(images, WHOLE.expand(4, 4), MEAN, seeds, augment)
    again = jittered_view(images[:1], WHOLE, MEAN, seeds[2:3], augment)
    assert torch.equal(view[2], again[0])
    assert torch.equal(view[0], view[3]) and not torch.equal(view[0], view[1])


def test_the_plain_view_is_the_image() -> None:
    extent = torch.tensor([[0, 0, 1, 2]], dtype=torch.int32)
    view = plain_view(grey(0, 51, 153, 255), extent, MEAN)
    assert_close(view[0, 1], torch.tensor([[0, 0.2], [0.2, 0.2]]))  # the second row is padding
    unchanged = jittered_view(grey(0, 51, 153, 255), extent, MEAN, torch.tensor([9]), jitter())
    assert_close(view, unchanged)


def test_the_view_of_the_defaults_is_contrast_and_brightness_to_the_bit() -> None:
    """Whatever colour and blur draw: runs from before these options can be repeated."""
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 3, 8, 8), np.uint8))
    seeds, extent = torch.tensor([5, 6, 2**40]), torch.tensor([[0, 0, 8, 8]] * 3, dtype=torch.int32)
    expected = []
    for sample_image, seed in zip(image, seeds.tolist(), strict=True):
        rng = np.random.default_rng([seed, 1])
        contrast, shift = (torch.tensor(rng.uniform(*span), dtype=torch.float32) for span in ((0.8, 1.2), (-0.1, 0.1)))
        expected.append(((sample_image.float() / 255 - 0.5) * contrast + (0.5 + shift)).clamp(0, 1))
    assert torch.equal(jittered_view(image, extent, MEAN, seeds, AugmentConfig()), torch.stack(expected))
    changes = {"saturation": (0.5, 1.5), "light": 0.3, "blur": 2.0}
    assert not torch.equal(jittered_view(image, extent, MEAN, seeds, jitter(**changes)), torch.stack(expected))


def test_saturation_by_hand() -> None:
    image = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    for factor, expected in [(0.0 + 1e-9, [0.299] * 3), (0.5, [0.6495, 0.1495, 0.1495]), (2.0, [1.0, 0.0, 0.0])]:
        view = jittered_view(image, WHOLE, MEAN, torch.tensor([1]), jitter(saturation=(factor, factor)))
        assert_close(view[0, :, 0, 0], torch.tensor(expected))


def test_light_multiplies_each_channel_of_an_image_within_its_range() -> None:
    seeds = torch.arange(300)
    images = grey(128, 128, 64, 0).expand(300, 3, 2, 2)
    view = jittered_view(images, WHOLE.expand(300, 4), MEAN, seeds, jitter(light=0.3))
    factors = view[:, :, 0, 0] / (128 / 255)
    assert_close(view[:, :, 1, 0], factors * 64 / 255)
    assert 0.7 <= factors.min() < 0.72 and 1.28 < factors.max() <= 1.3
    assert (factors.std(1) > 0.01).float().mean() > 0.9  # three draws, not one
    assert abs(float(np.corrcoef(factors.T.numpy())[0, 1])) < 0.2


def test_blur_spreads_a_point_as_a_gaussian_and_keeps_flat_images() -> None:
    image = torch.zeros(40, 3, 33, 33, dtype=torch.uint8)
    image[:, :, 16, 16] = 255
    extent = torch.tensor([[0, 0, 33, 33]] * 40, dtype=torch.int32)
    view = jittered_view(image, extent, MEAN, torch.arange(40), jitter(blur=3.0))
    offsets = torch.arange(33.0) - 16
    widths = (view[:, 0] * offsets**2).sum((1, 2)).sqrt()  # along x, of an image that adds up to 1
    torch.testing.assert_close(view.sum((2, 3)), torch.ones(40, 3), rtol=0, atol=1e-3)
    assert 2 < widths.max() <= 3 and widths.min() < 0.7
    flat = torch.full((1, 3, 33, 33), 128, dtype=torch.uint8)
    padded = torch.tensor([[0, 0, 20, 33]], dtype=torch.int32)  # the padding is not mixed in
    view = jittered_view(flat, padded, MEAN, torch.tensor([3]), jitter(blur=3.0))
    assert_close(view[:, :, :20], torch.full((1, 3, 20, 33), 128 / 255))
    assert torch.equal(view[:, :, 20:], MEAN.expand(1, 3, 13, 33))


def test_mixed_precision_leaves_the_view_as_it_is() -> None:
    image = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (1, 3, 2, 2), np.uint8))
    strong = jitter(blur=3.0, light=0.3, saturation=(0.5, 1.5))
    expected = jittered_view(image, WHOLE, MEAN, torch.tensor([4]), strong)
    with torch.autocast("cpu", torch.bfloat16):
        found = jittered_view(image, WHOLE, MEAN, torch.tensor([4]), strong)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_real_pixels_of_each_cell() -> None:
    extent = torch.tensor([[0, 0, 5, 3], [2, 1, 6, 6], [0, 0, 0, 0]], dtype=torch.int32)
    per_cell = real_pixels_per_cell(extent, 3, 3, 2)
    assert per_cell.tolist() == [
        [[4, 2, 0], [4, 2, 0], [2, 1, 0]],
        [[0, 0, 0], [2, 4, 4], [2, 4, 4]],
        [[0, 0, 0]] * 3,
    ]
    assert per_cell.sum((1, 2)).tolist() == close(real_pixels(extent, 6, 6).sum((1, 2)).tolist())


def test_real_pixels() -> None:
    extent = torch.tensor([[0, 0, 2, 3], [1, 2, 3, 4], [0, 0, 0, 0]], dtype=torch.int32)
    expected = [
        [[1, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
        [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]],
        [[0, 0, 0, 0]] * 3,
    ]
    assert real_pixels(extent, 3, 4).int().tolist() == expected
