"""Label maps redrawn along masks, worked out by hand on 4 x 4 pixels; large images; options that go together."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg.errors import UserError
from foodseg.models.sam.embedding import SamMask
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.refine import Refiner, build_refiner, parse_refine, refine_labels
from tests.support.compare import close

CPU = torch.device("cpu")
LEFT = np.array([[1, 1, 0, 0]] * 4, bool)
CORNER = np.zeros((4, 4), bool)
CORNER[:2, :2] = True


def logits(scale: int = 1) -> ImageLogits:
    """Left: three columns... class 1 barely wins most pixels of the left half, class 2 by far the others."""
    values = torch.zeros(3, 4, 4)
    values[1, :, :2] = 1.0  # 8 pixels of the left half
    values[2, 3, :2] = 9.0  # two of them are class 2, by far
    values[2, :, 2:] = 2.0
    return ImageLogits(values, 1, (4, 4), 4 * scale, 4 * scale)


def test_the_vote_counts_pixels_and_soft_takes_the_mean_logit() -> None:
    plain, _ = refine_labels(logits(), [LEFT], "none", 1.0)
    assert plain[:, 0].tolist() == [1, 1, 1, 2] and (plain[:, 2:] == 2).all()
    voted, confidence = refine_labels(logits(), [LEFT], "vote", 1.0)
    assert (voted[:, :2] == 1).all()  # 6 of 8 pixels
    # unchanged pixels keep their confidence; a changed one has the mean of those that decided: e / (e + 2)
    share = np.e / (np.e + 2)
    assert confidence[:, 0] / 65535 == pytest.approx([share] * 4, abs=1e-4)
    soft, confidence = refine_labels(logits(), [LEFT], "soft", 1.0)
    assert (soft[:, :2] == 2).all()  # mean logits 0, 1 and 2.25
    share = np.exp(2.25) / (1 + np.e + np.exp(2.25))
    assert confidence[:, 0] / 65535 == pytest.approx([share] * 4, abs=1e-4)
    # confidences are of logits that are divided by the temperature
    _, cooler = refine_labels(logits(), [LEFT], "soft", 2.0)
    share = np.exp(1.125) / (1 + np.exp(0.5) + np.exp(1.125))
    assert cooler[0, 0] / 65535 == pytest.approx(share, abs=1e-4)


def test_small_masks_lie_on_large_ones_and_a_mask_without_majority_is_left_out() -> None:
    everything = np.ones((4, 4), bool)
    ids, _ = refine_labels(logits(), [CORNER, everything], "vote", 1.0)
    assert ids.tolist() == [[1, 1, 2, 2]] * 2 + [[2, 2, 2, 2]] * 2
    ids, _ = refine_labels(logits(), [CORNER, everything], "vote", 1.0, majority=0.9)
    assert ids[:, 0].tolist() == [1, 1, 1, 2]
    ids, _ = refine_labels(logits(), [CORNER, everything], "vote", 1.0, keep=1)
    assert (ids == 2).all()
    empty = np.zeros((4, 4), bool)
    plain, _ = refine_labels(logits(), [], "vote", 1.0)
    assert np.array_equal(refine_labels(logits(), [empty], "vote", 1.0)[0], plain)
    assert np.array_equal(refine_labels(logits(), [empty], "soft", 1.0)[0], plain)


@pytest.mark.parametrize("how", ["vote", "soft"])
def test_masks_may_be_smaller_than_the_label_map(how: str) -> None:
    large, _ = refine_labels(logits(3), [LEFT], how, 1.0)  # type: ignore[arg-type]
    small, _ = refine_labels(logits(), [LEFT], how, 1.0)  # type: ignore[arg-type]
    assert large.shape == (12, 12) and np.array_equal(large[:, :6], np.repeat(np.repeat(small, 3, 0), 3, 1)[:, :6])


def test_region_means_by_hand() -> None:
    means = logits().region_means([LEFT, CORNER])
    assert means.tolist() == [close([0.0, 1.0, 2.25]), close([0.0, 1.0, 0.0])]


class Sam:
    """Finds the left half of any image."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def embed(self, image: np.ndarray) -> tuple[int, ...]:
        self.seen.append(image.shape[:2])
        return image.shape[:2]

    def automatic(self, size: tuple[int, int]) -> list[SamMask]:
        mask = np.zeros(size, bool)
        mask[:, : size[1] // 2] = True
        return [SamMask(mask, 0.9)]


def test_masks_of_a_large_image_are_found_at_the_size_that_sam_sees() -> None:
    sam = Sam()
    refiner = Refiner(sam, "vote", "sam.pt")  # type: ignore[arg-type]
    masks = [found.mask for found in refiner.masks(np.zeros((1200, 2048, 3), np.uint8))]
    assert sam.seen == [(600, 1024)] and masks[0].shape == (600, 1024)
    wide = ImageLogits(logits().values, 1, (4, 4), 1200, 2048)
    ids, _ = refine_labels(wide, masks, "vote", 1.0)
    assert ids.shape == (1200, 2048) and (ids[:, :1024] == 1).all()


def test_options_that_go_together(tmp_path: Path) -> None:
    assert build_refiner("none", None, CPU) is None
    assert [parse_refine(value) for value in ("none", "vote", "sam", "soft")] == ["none", "vote", "vote", "soft"]
    with pytest.raises(UserError, match="--refine 'always': use none, vote or soft"):
        parse_refine("always")
    with pytest.raises(UserError, match="--refine vote needs the weights of Segment Anything: --sam mobile_sam"):
        build_refiner("vote", None, CPU)
    with pytest.raises(UserError, match="--sam is for --refine vote or soft"):
        build_refiner("none", "x.pt", CPU)
    with pytest.raises(UserError, match="missing"):
        build_refiner("vote", str(tmp_path / "missing.pt"), CPU)
