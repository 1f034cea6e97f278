"""Label maps redrawn along masks of Segment Anything when images are scored: masks that are kept, or found again.

source = MaskSource("vote", sam="mobile_sam.safetensors", kept=None)
masks_of = source.build(device)
ids, confidence = refine_labels(logits, masks_of(image_id, image), source.how, temperature)
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from foodseg.data.image_io import decode_image, fit_longest, image_size
from foodseg.data.sam_masks import MASK_SIDE, KeptMasks, read_kept_masks
from foodseg.data.shards import Manifest
from foodseg.models.sam.sam import weights_identity
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.refine import Refine, build_refiner, refine_labels, refuse_unused_weights

MasksOf = Callable[[str, bytes], list[np.ndarray]]
"""(image_id, encoded image) -> n x (h, w) bool."""


@dataclass(frozen=True)
class MaskSource:
    """Where the masks are from: weights (`sam`), or those that are kept beside the data set. Pickled without either."""

    how: Refine
    sam: str | None
    kept: KeptMasks | None

    @property
    def note(self) -> str:
        """Says in the conditions of a score how label maps were redrawn, and with which weights."""
        which = self.kept.listed.sam if self.kept is not None else weights_identity(self.sam or "")
        kind, _, digest = which.partition(" ")
        return f"{self.how}, {kind} {digest[:12]}"

    def build(self, device: torch.device) -> MasksOf:
        """Loads the weights, where they are needed, in the process that calls it."""
        if self.kept is not None:
            kept = self.kept
            return lambda image_id, image: kept.masks(image_id)
        refiner = build_refiner(self.how, self.sam, device)
        assert refiner is not None

        def find(image_id: str, image: bytes) -> list[np.ndarray]:
            size = image_size(image)
            decoded = decode_image(image, None if max(size) <= MASK_SIDE else fit_longest(*size, MASK_SIDE))
            return [found.mask for found in refiner.masks(decoded)]

        return find


def mask_source(how: Refine, sam: str | None, data: str, manifest: Manifest) -> MaskSource | None:
    """Returns where the masks are from; None where nothing is redrawn.

    Raises:
        UserError: `sam` without a way to redraw; no masks are kept beside the data set, and no weights are named.
    """
    refuse_unused_weights(how, sam)
    if how == "none":
        return None
    return MaskSource(how, sam, read_kept_masks(data, manifest) if sam is None else None)


def redrawn(
    logits: ImageLogits, image_id: str, image: bytes, source: MaskSource | None, masks_of: MasksOf | None,
    temperature: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Returns ids and confidences of an image, redrawn where there is a source."""
    if source is None or masks_of is None:
        return logits.ids_and_confidence(temperature)
    return refine_labels(logits, masks_of(image_id, image), source.how, temperature)
