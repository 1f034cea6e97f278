"""Instances: the masks of Segment Anything, each with the ingredient that it was labelled as.

    instances = labelled_instances(masks, labels, (height, width), classes)

They may lie inside one another, as the masks do: a slice, and the tomato that it is cut from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from foodseg.classes import BACKGROUND
from foodseg.data.regions import resize_mask
from foodseg.models.sam.embedding import SamMask
from foodseg.predict.refine import MaskLabel


@dataclass(frozen=True)
class Instance:
    """One region of an image.

    id, name: of the ingredient. score: IoU with the true region as SAM predicts it, about 0 to 1. confidence: of the
    label, 0 to 1. pixels, share_of_image: its size. box: x, y, width, height. counts: COCO's compressed RLE of the
    mask, at the size of the image.
    """

    id: int
    name: str
    score: float
    confidence: float
    pixels: int
    share_of_image: float
    box: tuple[int, int, int, int]
    counts: str

    def mask(self, height: int, width: int) -> np.ndarray:
        """Returns the mask (H, W) bool; height, width: of the image."""
        rle = {"size": [height, width], "counts": self.counts.encode("ascii")}
        return coco_mask.decode(rle).astype(bool)


def labelled_instances(
    masks: Sequence[SamMask], labels: Sequence[MaskLabel], size: tuple[int, int], classes: Sequence[str]
) -> tuple[Instance, ...]:
    """Returns the masks that were labelled as an ingredient, the largest first.

    Args:
        masks: at any scale of the image. size: (height, width) of the image.
    """
    height, width = size
    found = []
    for label in labels:
        if label.id == BACKGROUND:
            continue
        mask = resize_mask(masks[label.mask].mask, size)
        pixels = int(np.count_nonzero(mask))
        if not pixels:
            continue
        rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
        x, y, across, down = (int(side) for side in coco_mask.toBbox(rle))
        found.append(
            Instance(
                id=label.id,
                name=classes[label.id],
                score=masks[label.mask].score,
                confidence=label.confidence,
                pixels=pixels,
                share_of_image=pixels / (height * width),
                box=(x, y, across, down),
                counts=rle["counts"].decode("ascii"),
            )
        )
    return tuple(sorted(found, key=lambda each: -each.pixels))
