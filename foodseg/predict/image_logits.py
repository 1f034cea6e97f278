"""From class scores on the model's grid to the label map: resize, argmax, softmax, in bands of rows.

    ids, confidence = logits.ids_and_confidence(temperature)

Scores are kept at the model's stride. The K x height x width scores of the label map never exist at once, and in each
band the classes alone are resized that can be the best there, or have a share in the softmax: of many classes a few.

Shape letters: K classes; h, w grid of the logits; n pixels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import interpolate

# float32 scores in one band: what stays in a processor's cache; a GPU is better with few large bands
BAND_BYTES = {"cpu": 4 * 2**20, "cuda": 2**28}
NO_SHARE = 25.0  # a class whose logit is so much lower than another's adds nothing to a float32 softmax: exp(-25)
ROUNDING = 1e-5  # of the greatest logit: more than what resizing rounds


@dataclass(frozen=True, eq=False)
class ImageLogits:
    """Class scores of one image on the model's grid; resized bilinearly (half-pixel centres) when ids are computed.

    values: (K, h, w) float32 at `stride` of an image of size `fitted` (height, width), padded right and bottom.
    height, width: of the label map.
    conditioning: (K,) bool, the conditioning classes; None = all classes.
    """

    values: torch.Tensor
    stride: int
    fitted: tuple[int, int]
    height: int
    width: int
    conditioning: np.ndarray | None = None

    @torch.inference_mode()
    def ids(self) -> np.ndarray:
        """Returns (height, width) uint8 ids of the best class, uint16 for more than 256 classes."""
        ids = self._no_ids()
        for band, scores, classes in self._contending(0.0):
            ids[band] = classes[_best(scores)[1]].cpu().numpy()
        return ids

    @torch.inference_mode()
    def ids_and_confidence(self, temperature: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns the same ids, and (height, width) uint16 confidences.

        Confidence is the greatest softmax probability of the logits divided by `temperature`; 65535 = certain.
        """
        ids, confidence = self._no_ids(), np.empty((self.height, self.width), np.uint16)
        for band, scores, classes in self._contending(NO_SHARE * temperature):
            greatest, best = _best(scores)
            ids[band] = classes[best].cpu().numpy()
            # the best class has probability exp(0) / sum
            below = scores.sub_(greatest).div_(temperature)
            share = below.exp_().sum(0).reciprocal_()
            confidence[band] = share.mul_(np.iinfo(np.uint16).max).round_().int().cpu().numpy()
        return ids, confidence

    @torch.inference_mode()
    def scores(self) -> torch.Tensor:
        """Returns (K, height, width) float32 logits of the label map: for small ones."""
        return torch.cat([scores for _, scores in self._bands()], 1)

    @torch.inference_mode()
    def at(self, pixels: np.ndarray) -> np.ndarray:
        """Returns (K, n) float32 logits of single pixels of the label map, numbered row by row: (n,) integers."""
        positions = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.int64)).to(self.values.device)
        rows, columns = positions // self.width, positions % self.width
        tops, bottoms, down = (tap[rows] for tap in self._row_taps())
        lefts, rights, across = (tap[columns] for tap in self._column_taps())
        upper = torch.lerp(self.values[:, tops, lefts], self.values[:, tops, rights], across)
        lower = torch.lerp(self.values[:, bottoms, lefts], self.values[:, bottoms, rights], across)
        return torch.lerp(upper, lower, down).cpu().numpy()

    @torch.inference_mode()
    def region_means(self, masks: Sequence[np.ndarray]) -> torch.Tensor:
        """Returns (m, K) float32 mean logits over the pixels of m regions of the label map, (height, width) bool each.

        A region without a pixel has NaN.
        """
        regions = torch.from_numpy(np.stack(masks)).to(self.values.device)
        sums = self.values.new_zeros(len(masks), len(self.values))
        for band, scores in self._bands():
            sums += regions[:, band].flatten(1).float() @ scores.flatten(1).T
        return sums / regions.sum((1, 2))[:, None]

    def _no_ids(self) -> np.ndarray:
        return np.empty((self.height, self.width), np.uint8 if len(self.values) <= 256 else np.uint16)

    def _bands(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yields rows of the label map and their scores (K, rows, width), which the caller may overwrite."""
        for band, scores, _ in self._contending(torch.inf):
            yield band, scores

    def _contending(self, margin: float) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Yields rows of the label map, scores (k, rows, width), which the caller may overwrite, and the ids (k,) of
        their classes, ascending: all that come within `margin` of the best anywhere in these rows, and perhaps more."""
        count, _, grid_width = self.values.shape
        most = BAND_BYTES.get(self.values.device.type, BAND_BYTES["cpu"])
        rows = max(1, most // (4 * count * max(self.width, grid_width)))
        low, high, blend = self._row_taps()
        first, last = low.tolist(), high.tolist()
        everything = torch.arange(count, device=self.values.device)
        margin += ROUNDING * float(self.values.abs().amax())
        for top in range(0, self.height, rows):
            band = slice(top, min(top + rows, self.height))
            classes, values = everything, self.values
            if margin < torch.inf:  # not with NaN either, which is everywhere then, as in the model
                classes = contenders(self.values[:, first[top] : last[band.stop - 1] + 1], margin)
                values = self.values[classes]
            lines = torch.lerp(values[:, low[band]], values[:, high[band]], blend[band][:, None])
            yield band, _widened(lines, self.fitted[1] / self.stride, self.width), classes

    def _row_taps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale = self.fitted[0] / (self.stride * self.height)
        return _taps(self.height, scale, self.values.shape[1], self.values.device)

    def _column_taps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scale = self.fitted[1] / (self.stride * self.width)
        return _taps(self.width, scale, self.values.shape[2], self.values.device)


def contenders(values: torch.Tensor, margin: float) -> torch.Tensor:
    """Returns (k,) int64, ascending, the classes that bilinear resizing brings within `margin` of the best somewhere.

    What lies between four neighbours is a mean of them. Of the class whose least neighbour is greatest it is at least
    that one; a class whose greatest neighbour is lower is out.

    Args:
        values: (K, h, w) float.
    """
    least = greatest = values
    for axis in (1, 2):
        size = values.shape[axis]
        if size > 1:
            least = torch.minimum(least.narrow(axis, 0, size - 1), least.narrow(axis, 1, size - 1))
            greatest = torch.maximum(greatest.narrow(axis, 0, size - 1), greatest.narrow(axis, 1, size - 1))
    return (greatest >= least.amax(0) - margin).flatten(1).any(1).nonzero()[:, 0]


def mean_of_views(views: Sequence[ImageLogits]) -> ImageLogits:
    """Returns the mean class scores of one image that a model saw at several sizes, on the grid of the largest.

    The scores of a smaller size are resized bilinearly to the centres of those grid cells (half-pixel centres); of
    equally large ones the first has the grid. A single view is returned as it is.
    """
    if len(views) == 1:
        return views[0]
    largest = max(views, key=lambda view: view.fitted[0] * view.fitted[1])
    _, height, width = largest.values.shape
    total = torch.zeros_like(largest.values)
    for view in views:
        if view.fitted == largest.fitted:
            total += view.values
            continue
        low, high, blend = _taps(height, view.fitted[0] / largest.fitted[0], view.values.shape[1], total.device)
        lines = torch.lerp(view.values[:, low], view.values[:, high], blend[:, None])
        low, high, blend = _taps(width, view.fitted[1] / largest.fitted[1], view.values.shape[2], total.device)
        total += torch.lerp(lines[:, :, low], lines[:, :, high], blend)
    return replace(largest, values=total / len(views))


def _best(scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, rows, width) -> the greatest score and its id, the first of equal ones; a third of the time of argmax."""
    greatest, ids = scores.max(0)
    return greatest, ids


def _widened(lines: torch.Tensor, real: float, width: int) -> torch.Tensor:
    """Resizes (K, rows, w) to (K, rows, width): the first `real` of the w columns fill it, the rest is padding."""
    if real == lines.shape[2]:
        return interpolate(lines[None], size=(lines.shape[1], width), mode="bilinear")[0]
    scaled = interpolate(lines[None], scale_factor=(1.0, width / real), mode="bilinear", recompute_scale_factor=False)
    return scaled[0, :, :, :width]


def _taps(count: int, scale: float, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each output pixel the two source pixels and the share of the second one (align_corners=False)."""
    source = ((torch.arange(count, dtype=torch.float64) + 0.5) * scale - 0.5).clamp(0, size - 1)
    low = source.floor().long()
    high = (low + 1).clamp_max(size - 1)
    return low.to(device), high.to(device), (source - low).float().to(device)
