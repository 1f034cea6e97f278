"""Names regions of an image whose masks are known already: by a region classifier, or by a segmenter.

    model = load_region_classifier("runs/roi")
    for region in model.classify("lunch.jpg", masks):
        print(region.name, region.score)

A segmenter is asked for its mean class scores over each region. `models/roi.py` is the network.

Shape letters: H, W of the image; n regions; K classes.
"""

import os
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from foodseg import storage
from foodseg.checkpoint.checkpoint import Checkpoint, load_checkpoint, load_model, load_region_network
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.classes import BACKGROUND
from foodseg.config.load import with_eval_overrides
from foodseg.data.regions import Region, box_of
from foodseg.errors import UserError
from foodseg.predict.device import Device, parse_device, pick_device
from foodseg.predict.given_masks import require_masks
from foodseg.predict.image_input import ImageInput, read_whole_image
from foodseg.predict.predictor import Predictor
from foodseg.predict.region_label import RegionLabel, region_labels
from foodseg.predict.region_predictor import RegionMeans, RegionPredictor, ScoresRegions


def load_region_classifier(
    uri: str | os.PathLike[str],
    *,
    device: Device | torch.device = "auto",
    weights: Literal["student", "ema"] | None = None,
    overrides: Sequence[str] = (),
) -> "RegionClassifier":
    """Loads a checkpoint that names regions: a region classifier (`model.kind: roi`) or a segmenter.

    Args:
        uri, device, weights, overrides: as for `foodseg.load`.

    Raises:
        UserError: as `foodseg.load`; a region classifier that was trained for comparison alone
            (`roi.views` = roi_other_context).

    >>> import foodseg
    >>> model = foodseg.load_region_classifier("runs/a", device="cpu")
    >>> model.classes[:2]
    ('background', 'white rice')
    """
    where = pick_device(parse_device(device, where="device")) if isinstance(device, str) else device
    chosen = [] if weights is None else [f"eval.weights={weights}"]
    return RegionClassifier(resolve_checkpoint(os.fspath(uri)), where, [*overrides, *chosen])


class RegionClassifier:
    """Names given regions; `load_region_classifier` makes it. Use one per thread.

    Attributes:
        uri, step, classes, config, device: as of `Segmenter`.
    """

    def __init__(self, uri: str, device: torch.device, overrides: Sequence[str] = ()) -> None:
        """Loads the checkpoint directory `uri`; arguments and errors as for `load_region_classifier`."""
        checkpoint = load_checkpoint(uri)
        self.uri, self.step, self.device = uri, checkpoint.step, device
        self.classes: tuple[str, ...] = checkpoint.classes.names
        self.config = with_eval_overrides(checkpoint.config, overrides)
        self.data = checkpoint.data
        self.scorer: ScoresRegions = self._scorer(checkpoint)

    def classify(self, image: ImageInput, masks: Sequence[np.ndarray]) -> list[RegionLabel]:
        """Names each region.

        Args:
            image: as for `Segmenter.predict`. masks: n x (H, W), true inside the region; they may overlap.

        Raises:
            UserError: as `read_whole_image`; a mask of another size or without a pixel; no mask.

        >>> import foodseg, numpy as np
        >>> model = foodseg.load_region_classifier("runs/a")
        >>> mask = np.zeros((96, 128), bool)
        >>> mask[20:60, 30:80] = True
        >>> model.classify("lunch.jpg", [mask])[0].pixels
        2000
        """
        if self.config.regions is not None and self.config.roi.views == "roi_other_context":
            raise UserError(
                f"{storage.redact(self.uri)} was trained for comparison alone, with the context of other images "
                "(roi.views = roi_other_context): use one of roi.views = roi_context"
            )
        pixels = read_whole_image(image)
        given = require_masks(masks, (pixels.shape[0], pixels.shape[1]))
        regions = [Region(BACKGROUND, mask, box_of(mask)) for mask in given]
        return region_labels(self.scorer.logits(pixels, regions), regions, self.classes)

    def _scorer(self, checkpoint: Checkpoint) -> ScoresRegions:
        weights = self.config.eval.weights
        if self.config.regions is not None:
            return RegionPredictor(load_region_network(checkpoint, weights), self.config, self.device)
        predictor = Predictor(
            load_model(checkpoint, weights), self.config.eval, self.device, self.config.train.precision,
            class_pixels=checkpoint.class_pixels,
        )  # fmt: skip
        return RegionMeans(predictor)

    def __repr__(self) -> str:
        kind = "region classifier" if self.config.regions is not None else "segmenter, by its mean scores"
        return f"RegionClassifier({storage.redact(self.uri)!r}: {len(self.classes)} classes, {kind})"
