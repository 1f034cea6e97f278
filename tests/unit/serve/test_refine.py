"""The SAM vote, worked out by hand on 4 x 4 pixels."""

import asyncio
from collections.abc import Sequence

import numpy as np

from foodseg.config.serve import RefineConfig
from foodseg.serve.protocols import Labelled, SamMask
from foodseg.serve.refine import vote

NAMES = ("background", "rice", "egg")
LEFT = np.array([[1, 1, 0, 0]] * 4, bool)


class Sam:
    async def masks(self, image: np.ndarray, seconds: float) -> list[SamMask]:
        return [SamMask(LEFT, 0.9), SamMask(~LEFT, 0.8)]


class Clip:
    def __init__(self) -> None:
        self.asked: list[tuple[list[np.ndarray], list[str]]] = []

    async def mask_scores(
        self, image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str]
    ) -> list[list[float]]:
        self.asked.append((list(masks), list(names)))
        return [[0.1, 0.9] for _ in masks]


def labels() -> Labelled:
    ids = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [1, 2, 2, 1], [1, 1, 0, 2]], np.uint8)
    return Labelled(ids, LEFT.copy(), {0: 0.5, 1: 0.6, 2: 0.7}, "meals", "ab")


def refined(clip: Clip | None) -> Labelled:
    image = np.zeros((4, 4, 3), np.uint8)
    return asyncio.run(vote(image, labels(), NAMES, RefineConfig(), Sam(), clip))  # type: ignore[arg-type]


def test_masks_take_the_label_of_most_of_their_pixels() -> None:
    answer = refined(None)
    np.testing.assert_array_equal(answer.ids, np.where(LEFT, 1, 2))
    assert answer.confidences == {1: 0.6, 2: 0.7}
    assert (answer.model, answer.sha) == ("meals", "ab")


def test_clip_decides_where_the_segmenter_has_low_confidence() -> None:
    clip = Clip()
    answer = refined(clip)
    ((masks, names),) = clip.asked
    assert names == ["rice", "egg"]  # background has no name
    np.testing.assert_array_equal(masks, [LEFT])
    np.testing.assert_array_equal(answer.ids, np.full((4, 4), 2))
    assert answer.confidences == {2: 0.7}
