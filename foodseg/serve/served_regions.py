"""The model that names regions, as the endpoint serves it: what it is, then loaded, warmed up and scoring.

    card = regions_card("runs/roi")
    logits = ServedRegions(card).logits(image, regions)      # (n, K)

A run is resolved to a checkpoint once, with the card, so that every replica loads the same one.
"""

from collections.abc import Sequence

import numpy as np

from foodseg import storage
from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.classes import BACKGROUND
from foodseg.data.regions import Region, box_of
from foodseg.errors import UserError
from foodseg.predict.device import pick_device
from foodseg.predict.region_classifier import RegionClassifier
from foodseg.serve.protocols import RegionsCard
from foodseg.serve.served_model import checkpoint_sha

_BLANK = 64  # pixels of a side of the image for the warm-up and the health check


def regions_card(model: str) -> RegionsCard:
    """Returns what is known of a run, checkpoint or URI without its weights.

    Raises:
        UserError: it is damaged, or was trained for comparison alone (`roi.views` = roi_other_context).
    """
    uri = resolve_checkpoint(model)
    checkpoint = load_checkpoint(uri)
    classifies = checkpoint.config.regions is not None
    if classifies and checkpoint.config.roi.views == "roi_other_context":
        raise UserError(
            f"regions.model: {storage.redact(model)} was trained for comparison alone, with the context of other "
            "images (roi.views = roi_other_context): name one of roi.views = roi_context"
        )
    least_share = checkpoint.config.roi.least_share
    return RegionsCard(uri, checkpoint_sha(uri), checkpoint.classes.names, least_share, classifies)


class ServedRegions:
    """One checkpoint; not safe to call from several threads at once."""

    def __init__(self, card: RegionsCard) -> None:
        """Loads it, and names a region of a blank image with it.

        Raises:
            UserError: it is damaged, has changed since the card was made, or does not run.
        """
        if checkpoint_sha(card.uri) != card.sha:
            raise UserError(f"the checkpoint {storage.redact(card.uri)} has changed since it was deployed")
        self._model = RegionClassifier(card.uri, pick_device())
        try:
            self.check()
        except (RuntimeError, AssertionError) as error:
            detail = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the checkpoint {storage.redact(card.uri)} loads, but does not name a region ({detail[:200]})"
            ) from None

    def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        """Returns (n, K) float32 class scores of the regions of an image (H, W, 3) uint8 RGB."""
        return self._model.scorer.logits(image, regions)

    def check(self) -> None:
        """Names a region of a blank image. RuntimeError, or whatever else a broken model raises."""
        mask = np.zeros((_BLANK, _BLANK), bool)
        mask[_BLANK // 4 : _BLANK // 2, _BLANK // 4 :] = True
        grey = np.full((_BLANK, _BLANK, 3), 128, np.uint8)
        if not np.isfinite(self.logits(grey, [Region(BACKGROUND, mask, box_of(mask))])).all():
            raise RuntimeError("the class scores of a region are not finite")
