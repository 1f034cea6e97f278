"""Label maps redrawn along the masks of Segment Anything: each mask gets one label.

    refiner = build_refiner("vote", "mobile_sam.safetensors", device)
    ids, confidence = refiner.refined(image, logits, temperature=1.0)

- vote (FoodSAM: Lan et al., 2023; jamesjg/FoodSAM): a mask takes the id that most of its pixels have (`sam_vote.py`).
- soft: a mask takes the id with the greatest mean logit over its pixels.

The largest masks vote; they are painted from large to small, so that an egg lies on the rice.

Shape letters: H, W of the label map; h, w of the masks, the same for images of up to MASK_SIDE pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch

from foodseg.data.image_io import fit_longest, resize_image
from foodseg.data.sam_masks import MASK_SIDE
from foodseg.errors import UserError
from foodseg.models.sam.sam import SamModel, load_sam
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.sam_vote import KEEP, MAJORITY, count_votes, largest

Refine = Literal["none", "vote", "soft"]
CERTAIN = np.iinfo(np.uint16).max


def parse_refine(value: str, *, where: str = "--refine") -> Refine:
    """Returns one of the three; `sam` is the old name of `vote`. UserError: it is another one."""
    for how in get_args(Refine):
        if value == how or (value == "sam" and how == "vote"):
            return how
    raise UserError(f"{where} {value!r}: use none, vote or soft")


def build_refiner(how: Refine, sam: str | None, device: torch.device) -> "Refiner | None":
    """Returns what redraws label maps; None where nothing does.

    Args:
        sam: file or URI of the weights of segment-anything or MobileSAM.

    Raises:
        UserError: one without the other, or the weights cannot be read.
    """
    if how == "none":
        if sam is not None:
            raise UserError("--sam is for --refine vote or soft: give one of these too")
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

    def masks(self, image: np.ndarray) -> list[np.ndarray]:
        """Returns n x (h, w) bool of an image (H, W, 3) uint8 RGB of any size.

        Raises:
            UserError: it is too narrow for Segment Anything.
        """
        height, width = image.shape[:2]
        if max(height, width) > MASK_SIDE:
            image = resize_image(image, *fit_longest(height, width, MASK_SIDE))
        return [found.mask for found in self.sam.automatic(self.sam.embed(image))]

    def refined(self, image: np.ndarray, logits: ImageLogits, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids and confidences as `ImageLogits.ids_and_confidence`, redrawn; `image` as for `masks`."""
        return refine_labels(logits, self.masks(image), self.how, temperature)


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
    ids, confidence = logits.ids_and_confidence(temperature)
    chosen = largest(masks, keep) if how != "none" else []
    if not chosen:
        return ids, confidence
    height, width = masks[0].shape
    small = replace(logits, height=height, width=width)
    labels = _voted(small, [masks[i] for i in chosen], temperature, majority)
    if how == "soft":
        labels = _mean_logits(small, [masks[i] for i in chosen], temperature)
    before = ids.copy() if how == "vote" else None
    for index, label in zip(chosen, labels, strict=True):
        if label is not None:
            inside = resize_mask(masks[index], ids.shape)
            changed = inside if before is None else inside & (ids != label.id)
            ids[inside] = label.id
            confidence[changed] = round(label.confidence * CERTAIN)
    return ids, confidence


@dataclass(frozen=True)
class _Label:
    id: int
    confidence: float


def _voted(
    logits: ImageLogits, masks: Sequence[np.ndarray], temperature: float, majority: float
) -> list[_Label | None]:
    """Returns what each mask voted for; None without a majority."""
    ids, confidence = logits.ids_and_confidence(temperature)
    ballots = {ballot.mask: ballot for ballot in count_votes(ids, masks, keep=len(masks), majority=majority)}
    labels: list[_Label | None] = []
    for index, mask in enumerate(masks):
        label = None
        if index in ballots:
            own = confidence[mask & (ids == ballots[index].label)]
            label = _Label(ballots[index].label, float(own.mean()) / CERTAIN)
        labels.append(label)
    return labels


def _mean_logits(logits: ImageLogits, masks: Sequence[np.ndarray], temperature: float) -> list[_Label | None]:
    """Returns the class of the greatest mean logit of each mask, and its softmax probability."""
    means = logits.region_means(masks)
    best = (means / temperature).softmax(1).max(1)
    return [_Label(int(index), float(share)) for share, index in zip(best.values, best.indices, strict=True)]


def resize_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Returns a mask (h, w) bool at another size (H, W): of each pixel the one below its centre."""
    if mask.shape == size:
        return mask
    rows, columns = (
        ((np.arange(side) + 0.5) * own / side).astype(np.int64) for side, own in zip(size, mask.shape, strict=True)
    )
    return mask[rows[:, None], columns]
