"""Label maps redrawn along the masks of Segment Anything: each mask gets one label.

    refiner = build_refiner("vote", "mobile_sam.safetensors", device)
    masks = [found.mask for found in refiner.masks(image)]
    ids, confidence = refine_labels(logits, masks, refiner.how, temperature=1.0)

- vote (FoodSAM: Lan et al., 2023; jamesjg/FoodSAM): a mask takes the id that most of its pixels have (`sam_vote.py`).
- soft: a mask takes the id with the greatest mean logit over its pixels.

The largest masks vote; they are painted from large to small, so that an egg lies on the rice.

Shape letters: H, W of the label map; h, w of the masks, the same for images of up to MASK_SIDE pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from foodseg.data.image_io import fit_longest, resize_image
from foodseg.data.regions import MAJORITY, resize_mask
from foodseg.data.sam_masks import MASK_SIDE
from foodseg.errors import UserError
from foodseg.models.sam.embedding import SamMask
from foodseg.models.sam.sam import SamModel, load_sam
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.sam_vote import KEEP, count_votes, largest

Refine = Literal["none", "vote", "soft"]
CERTAIN = np.iinfo(np.uint16).max


def parse_refine(value: str, *, where: str = "--refine") -> Refine:
    """Returns one of the three; `sam` is the old name of `vote`. UserError: it is another one."""
    for how in get_args(Refine):
        if value == how or (value == "sam" and how == "vote"):
            return how
    raise UserError(f"{where} {value!r}: use none, vote or soft")


def refuse_unused_weights(how: Refine, sam: str | None) -> None:
    """Raises UserError for weights of Segment Anything that would redraw nothing."""
    if how == "none" and sam is not None:
        raise UserError("--sam is for --refine vote or soft: give one of these too")


def build_refiner(how: Refine, sam: str | None, device: torch.device) -> "Refiner | None":
    """Returns what redraws label maps; None where nothing does.

    Args:
        sam: file or URI of the weights of segment-anything or MobileSAM.

    Raises:
        UserError: one without the other, or the weights cannot be read.
    """
    refuse_unused_weights(how, sam)
    if how == "none":
        return None
    if sam is None:
        raise UserError(f"--refine {how} needs the weights of Segment Anything: --sam mobile_sam.safetensors")
    # its grid of clicks is computed in float64, which mps does not have
    return Refiner(load_sam(None, sam, device if device.type != "mps" else torch.device("cpu")), how, sam)


@dataclass(frozen=True)
class Refiner:
    """Segment Anything, and how its masks change label maps. weights: the file or URI of `sam`."""

    sam: SamModel
    how: Refine
    weights: str

    def masks(self, image: np.ndarray) -> list[SamMask]:
        """Returns masks (h, w) with their scores, of an image (H, W, 3) uint8 RGB of any size.

        Raises:
            UserError: it is too narrow for Segment Anything.
        """
        height, width = image.shape[:2]
        if max(height, width) > MASK_SIDE:
            image = resize_image(image, *fit_longest(height, width, MASK_SIDE))
        return self.sam.automatic(self.sam.embed(image))


class MaskLabel(NamedTuple):
    """What the mask number `mask` was labelled as; confidence: 0 to 1."""

    mask: int
    id: int
    confidence: float


def refine_labels(
    logits: ImageLogits,
    masks: Sequence[np.ndarray],
    how: Refine,
    temperature: float,
    *,
    keep: int = KEEP,
    majority: float = MAJORITY,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (H, W) ids, uint8 or uint16, and (H, W) uint16 confidences, of a label map redrawn along masks.

    A pixel whose id the vote changes has the mean confidence of the pixels that decided; with `soft` the pixels of a
    mask have the softmax of the mask's mean logits.

    Args:
        masks: n x (h, w) bool, at any scale of the image. keep: number of masks that count, the largest.
        majority: share of the pixels of a mask that one id needs in a vote.
    """
    labels = label_masks(logits, masks, how, temperature, keep=keep, majority=majority)
    return paint_masks(logits, masks, labels, how, temperature)


def label_masks(
    logits: ImageLogits,
    masks: Sequence[np.ndarray],
    how: Refine,
    temperature: float,
    *,
    keep: int | None = None,
    majority: float = MAJORITY,
) -> list[MaskLabel]:
    """Returns a label for each of the `keep` largest masks, the largest first; a mask without majority has none.

    Args:
        keep: None = all.
    """
    chosen = largest(masks, len(masks) if keep is None else keep) if how != "none" else []
    if not chosen:
        return []
    height, width = masks[0].shape
    small = replace(logits, height=height, width=width)
    if how == "soft":
        means = small.region_means([masks[index] for index in chosen])
        best = (means / temperature).softmax(1).max(1)
        found = zip(chosen, best.indices.tolist(), best.values.tolist(), strict=True)
        return [MaskLabel(index, label, share) for index, label, share in found]
    ids, confidence = small.ids_and_confidence(temperature)
    labels = []
    for ballot in count_votes(ids, masks, keep=len(chosen), majority=majority):
        own = confidence[masks[ballot.mask] & (ids == ballot.label)]
        labels.append(MaskLabel(ballot.mask, ballot.label, float(own.mean()) / CERTAIN))
    return labels


def paint_masks(
    logits: ImageLogits, masks: Sequence[np.ndarray], labels: Sequence[MaskLabel], how: Refine, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns ids and confidences as `refine_labels`, with the masks painted in the order of their labels."""
    before, confidence = logits.ids_and_confidence(temperature)
    ids = before.copy()
    for label in labels:
        inside = resize_mask(masks[label.mask], ids.shape)
        changed = inside & (ids != label.id) if how == "vote" else inside
        ids[inside] = label.id
        confidence[changed] = round(label.confidence * CERTAIN)
    return ids, confidence
