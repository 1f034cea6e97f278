"""What a region was named, from its class scores: for `predict --masks`, the Python API and the endpoint.

    for label in region_labels(logits, regions, classes):
        print(label.name, label.score)

Shape letters: n regions; K classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foodseg.data.regions import Box, Region


@dataclass(frozen=True)
class RegionLabel:
    """What one region was named.

    id, name: of the class. score: its softmax probability, 0 to 1, not calibrated. second, second_score: of the class
    that comes next. pixels, share_of_image: its size. box: x, y, width, height.
    """

    id: int
    name: str
    score: float
    second: str
    second_score: float
    pixels: int
    share_of_image: float
    box: tuple[int, int, int, int]

    @property
    def margin(self) -> float:
        """Between the best and the next score."""
        return self.score - self.second_score


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of class scores, (n, K) float64."""
    shares = np.exp(logits - logits.max(1, keepdims=True), dtype=np.float64)
    found: np.ndarray = shares / shares.sum(1, keepdims=True)
    return found


def averaged(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns (n, K) float32: the mean of both probabilities of regions that are looked at again.

    Args:
        first: (n, K) probabilities of the segmenter. second: (n, K) logits of the region classifier.
    """
    return ((first + probabilities(second)) / 2).astype(np.float32)


def region_labels(logits: np.ndarray, regions: Sequence[Region], classes: Sequence[str]) -> list[RegionLabel]:
    """Names regions by their class scores (n, K), in their order."""
    found = []
    for shares, region in zip(probabilities(logits), regions, strict=True):
        best, second = (int(index) for index in np.argsort(-shares, kind="stable")[:2])
        pixels = int(np.count_nonzero(region.mask))
        found.append(
            RegionLabel(
                id=best,
                name=classes[best],
                score=float(shares[best]),
                second=classes[second],
                second_score=float(shares[second]),
                pixels=pixels,
                share_of_image=pixels / region.mask.size,
                box=xywh(region.box),
            )
        )
    return found


def xywh(box: Box) -> tuple[int, int, int, int]:
    """Returns a box as x, y, width, height."""
    return (box.left, box.top, box.right - box.left, box.bottom - box.top)
