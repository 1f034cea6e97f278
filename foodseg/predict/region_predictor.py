"""Class scores of given regions of an image: of a region classifier, or of a segmenter, whose mean over them counts.

    predictor = RegionPredictor(network, config, torch.device("cpu"))
    logits = predictor.logits(image, regions)      # (n, K)

Shape letters: n regions; H, W of the image; K classes.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from foodseg.config import ExperimentConfig
from foodseg.data.regions import Region
from foodseg.data.roi_views import region_views
from foodseg.models.roi import RegionNetwork, RegionOutput
from foodseg.predict.predictor import AUTOCAST, Predictor

REGIONS_AT_ONCE = 32


class ScoresRegions(Protocol):
    """Gives the class scores of regions."""

    def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        """Returns (n, K) float32.

        Args:
            image: (H, W, 3) uint8 RGB. regions: of this image; their labels do not count.
        """
        ...


class RegionPredictor:
    """A region classifier, with the mirrored views where `eval.flip` says so."""

    def __init__(self, network: RegionNetwork, config: ExperimentConfig, device: torch.device) -> None:
        """Takes the network, which it moves to the device, and the configuration that it was trained with."""
        self.network = network.to(device).eval()
        self._roi, self._side, self._flip = config.roi, config.augment.crop, config.eval.flip
        self._device, self._dtype = device, AUTOCAST[config.train.precision]

    def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        """As `ScoresRegions.logits`; with a distillation head the mean of both heads."""
        return self.logits_of_views(self.views(image, regions))

    def views(self, image: np.ndarray, regions: Sequence[Region]) -> list[np.ndarray]:
        """Returns the views (V, S, S, 3) uint8 of each region."""
        roi = self._roi
        return [region_views(image, region, roi.views, side=self._side, margin=roi.margin) for region in regions]

    def logits_of_views(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """Returns (n, K) float32 of n x (V, S, S, 3) uint8."""
        found = []
        for start in range(0, len(views), REGIONS_AT_ONCE):
            shown = torch.from_numpy(np.stack(views[start : start + REGIONS_AT_ONCE])).to(self._device)
            found.append(self._forward(shown.permute(0, 1, 4, 2, 3).float() / 255))
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    @torch.no_grad()
    def _forward(self, views: torch.Tensor) -> np.ndarray:
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            output: RegionOutput = self.network(views)
            logits = output.averaged.float()
            if self._flip:
                mirrored: RegionOutput = self.network(views.flip(-1))
                logits = (logits + mirrored.averaged.float()) / 2
        return logits.cpu().numpy()


class RegionMeans:
    """A segmenter: the mean of its logits over the pixels of a region."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        """As `ScoresRegions.logits`."""
        (found,) = self._predictor.logits([image], [(image.shape[0], image.shape[1])])
        means: np.ndarray = found.region_means([region.mask for region in regions]).cpu().numpy()
        return means


class OtherContexts:
    """For `roi.views` = roi_other_context: the contexts of the image before, of the same source."""

    def __init__(self) -> None:
        self._last: dict[str, np.ndarray] = {}

    def exchange(self, source: str, views: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the views (2, S, S, 3) of an image's regions with the context of the first region of that image.

        The first image of a source keeps its own.
        """
        if not views:
            return []
        other = self._last.get(source, views[0][1])
        self._last[source] = views[0][1]
        return [np.stack([own[0], other]) for own in views]
