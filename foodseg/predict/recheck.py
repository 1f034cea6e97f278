"""A second look at doubtful regions: a region classifier is asked about those of low confidence.

    recheck = Recheck(load_region_classifier("runs/roi"), below=0.6)
    ids, confidence, regions = recheck(image, logits, ids, confidence, temperature)

A region is a connected part of the label map. Where the mean confidence of its pixels is below the threshold, it takes
the class with the greatest mean of two probabilities: of the segmenter, by its mean logits there, and of the region
classifier, which sees what is around it.

Shape letters: H, W of the image; K classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.regions import Region, true_regions
from foodseg.errors import UserError
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.region_classifier import RegionClassifier, load_region_classifier
from foodseg.predict.region_label import averaged, xywh

BELOW = 0.6  # mean confidence
CERTAIN = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class RecheckedRegion:
    """A region that was looked at again.

    before, after: names of its class. confidence: mean of its pixels before, 0 to 1. score: of the class after, the
    mean of both probabilities. pixels: its size. box: x, y, width, height.
    """

    before: str
    after: str
    confidence: float
    score: float
    pixels: int
    box: tuple[int, int, int, int]


class Recheck:
    """A region classifier, and below which confidence it is asked.

    Attributes:
        classifier: of the same label space as the segmenter. below: in (0, 1].
    """

    def __init__(self, classifier: RegionClassifier, below: float = BELOW) -> None:
        """UserError: `below` is out of range, or the classifier is a segmenter."""
        if not 0 < below <= 1:
            raise UserError(
                f"the confidence below which regions are looked at again is above 0 and at most 1, found {below:g}"
            )
        if classifier.config.regions is None:
            raise UserError(
                f"{storage.redact(classifier.uri)} is a segmenter, and a second look needs a region classifier "
                "(model.kind = roi)"
            )
        self.classifier, self.below = classifier, below

    def __call__(
        self, image: np.ndarray, logits: ImageLogits, ids: np.ndarray, confidence: np.ndarray, temperature: float
    ) -> tuple[np.ndarray, np.ndarray, tuple[RecheckedRegion, ...]]:
        """Returns ids and confidences with doubtful regions renamed, and what was looked at, the largest first.

        Args:
            image: (H, W, 3) uint8 RGB. logits: of this image, for (H, W). ids, confidence: (H, W), as of
                `ImageLogits.ids_and_confidence(temperature)`, perhaps redrawn; they stay as they are.
        """
        names = self.classifier.classes
        least_share = self.classifier.config.roi.least_share
        doubtful = doubtful_regions(ids, confidence, ClassTable(names), self.below, least_share)
        if not doubtful:
            return ids, confidence, ()
        regions = [region for region, _ in doubtful]
        shares = combined(logits, regions, self.classifier.scorer.logits(image, regions), temperature)
        ids, confidence = ids.copy(), confidence.copy()
        found = []
        for (region, sure), own in zip(doubtful, shares, strict=True):
            best = int(own.argmax())
            if best != region.label:
                ids[region.mask] = best
                confidence[region.mask] = round(float(own[best]) * CERTAIN)
            found.append(
                RecheckedRegion(
                    names[region.label], names[best], sure, float(own[best]), int(np.count_nonzero(region.mask)),
                    xywh(region.box),
                )
            )  # fmt: skip
        return ids, confidence, tuple(sorted(found, key=lambda each: -each.pixels))


def doubtful_regions(
    ids: np.ndarray, confidence: np.ndarray, classes: ClassTable, below: float, least_share: float
) -> list[tuple[Region, float]]:
    """Returns the connected parts of a label map whose mean confidence (0 to 1) is below a threshold, with that mean.

    Args:
        ids, confidence: as for `Recheck`. least_share: as for `true_regions`.
    """
    regions = true_regions(ids, classes, least_share=least_share)
    means = [float(confidence[region.mask].mean()) / CERTAIN for region in regions]
    return [(region, mean) for region, mean in zip(regions, means, strict=True) if mean < below]


def segmenter_probabilities(logits: ImageLogits, regions: Sequence[Region], temperature: float) -> np.ndarray:
    """Returns (n, K) float32: the softmax of a segmenter's mean logits over each of n regions, one at least."""
    means = logits.region_means([region.mask for region in regions]).cpu()
    shares: np.ndarray = (means / temperature).softmax(1).numpy()
    return shares


def combined(logits: ImageLogits, regions: Sequence[Region], second: np.ndarray, temperature: float) -> np.ndarray:
    """Returns (n, K) float32: the mean of both probabilities of n regions.

    Args:
        logits: of the segmenter. second: (n, K) logits of the region classifier.
    """
    return averaged(segmenter_probabilities(logits, regions, temperature), second)


def build_recheck(
    uri: str | os.PathLike[str] | None, below: float | None, device: torch.device, classes: Sequence[str]
) -> Recheck | None:
    """Loads the region classifier; None without one.

    Args:
        below: None = BELOW. classes: of the segmenter.

    Raises:
        UserError: as `Recheck` and `load_region_classifier`; it has other classes; a threshold without a classifier.
    """
    if uri is None:
        if below is not None:
            raise UserError(
                "a confidence below which regions are looked at again needs a region classifier: --recheck RUN"
            )
        return None
    found = Recheck(load_region_classifier(uri, device=device), BELOW if below is None else below)
    if found.classifier.classes != tuple(classes):
        raise UserError(
            f"{storage.redact(found.classifier.uri)} knows other classes than the segmenter: train both "
            "on one label space"
        )
    return found
