"""Masks of everything on an image: clicks of a grid, coarse first, but for those where a mask was found already.

    found = masks_of_everything(sam, embedding, MaskGrid(), stop=lambda: time.monotonic() > deadline)

They are those of segment-anything's SamAutomaticMaskGenerator (without crops), which clicks everywhere, encodes the
image again, and enlarges every mask to the size of the image before most of them are dropped. Here a click that lies in
the finest mask of another click is left out: it would find that mask again. As the clicks go from coarse to fine, what
was found when the time is over covers the whole image.

Shape letters: P clicks; H, W of the image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.amg import batched_mask_to_box, build_point_grid, calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide
from torchvision.ops import nms

from foodseg.models.sam.click_decoder import ClickDecoder
from foodseg.models.sam.embedding import SamEmbedding, SamMask

_LEVEL, _OFFSET = 0.0, 1.0  # segment-anything's: where a mask ends, and how far its stability is tried
_ENLARGED = 2**24  # pixels of mask logits that exist at once at the size of the image (64 MiB)


@dataclass(frozen=True)
class MaskGrid:
    """How masks of everything are looked for; the thresholds are segment-anything's own.

    points_per_side: clicks along each side of the image; the time grows at most with their square.
    points_per_batch: clicks in one pass of the mask decoder; 64 suit a GPU, on a CPU a few are fastest.
    predicted_iou: masks that the model itself rates lower are dropped.
    stability: so are masks that change when their logits are cut elsewhere (IoU of the cuts at +1 and -1).
    overlap: the lower rated of two masks is dropped where the IoU of their boxes is greater.
    settled: share of the image up to which a mask settles the points in it: 0 = all points are clicked on. In a larger
        one, a plate or a table, there may be more to find.
    """

    points_per_side: int = 16
    points_per_batch: int = 4
    predicted_iou: float = 0.88
    stability: float = 0.95
    overlap: float = 0.7
    settled: float = 0.05


def masks_of_everything(
    sam: Sam, embedding: SamEmbedding, grid: MaskGrid, stop: Callable[[], bool] | None = None
) -> list[SamMask]:
    """Returns a mask for everything that the grid finds, the one rated best first.

    Args:
        stop: asked before each pass of the decoder; where it is true, what was found so far is returned.
    """
    size = (embedding.height, embedding.width)
    decoder = ClickDecoder(sam, embedding.features)
    transform = ResizeLongestSide(sam.image_encoder.img_size)
    points = coarse_first(grid.points_per_side) * (embedding.width, embedding.height)
    inside = torch.as_tensor(transform.apply_coords(points, size)).float()
    cells = points.astype(np.int64).clip(0, (embedding.width - 1, embedding.height - 1))
    settled = np.zeros(size, bool)
    packed: list[np.ndarray] = []
    boxes, scores = [torch.zeros(0, 4)], [torch.zeros(0)]
    left = list(range(len(points)))
    while left and not (stop is not None and stop()):
        batch, left = _next(left, cells, settled, grid.points_per_batch)
        finest: dict[int, tuple[int, np.ndarray]] = {}  # by click, pixels and mask
        for logits, ratings, clicks in _enlarged(sam, decoder, inside[batch].to(sam.device), embedding, grid):
            stable = calculate_stability_score(logits, _LEVEL, _OFFSET) >= grid.stability
            masks = logits[stable] > _LEVEL
            boxes.append(batched_mask_to_box(masks).float().cpu())
            scores.append(ratings[stable].cpu())
            for click, mask in zip(clicks[stable].tolist(), masks.cpu().numpy(), strict=True):
                packed.append(np.packbits(mask))
                pixels = int(np.count_nonzero(mask))
                if click not in finest or pixels < finest[click][0]:
                    finest[click] = (pixels, mask)
        for pixels, mask in finest.values():
            if pixels <= grid.settled * mask.size:
                settled |= mask
    ratings = torch.cat(scores)
    kept = nms(torch.cat(boxes), ratings, grid.overlap).tolist()
    return [SamMask(_unpacked(packed[index], size), float(ratings[index])) for index in kept]


def coarse_first(side: int) -> np.ndarray:
    """Returns the (side^2, 2) points of segment-anything's grid, x and y in (0, 1), such that any first few of them are
    spread over the whole image: in the order of their reversed binary coordinates."""
    bits = max(1, (side - 1).bit_length())
    reversed_bits = [int(f"{index:0{bits}b}"[::-1], 2) for index in range(side)]

    def key(point: int) -> int:
        row, column = reversed_bits[point // side], reversed_bits[point % side]
        return sum(((row >> bit & 1) * 2 + (column >> bit & 1)) << 2 * bit for bit in range(bits))

    grid: np.ndarray = build_point_grid(side)
    return grid[sorted(range(side * side), key=key)]


def _next(left: list[int], cells: np.ndarray, settled: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """Returns the next few points that no mask has settled, and what is left after them."""
    batch: list[int] = []
    for position, point in enumerate(left):
        x, y = cells[point]
        if not settled[y, x]:
            batch.append(point)
            if len(batch) == count:
                return batch, left[position + 1 :]
    return batch, []


def _enlarged(
    sam: Sam, decoder: ClickDecoder, clicks: torch.Tensor, embedding: SamEmbedding, grid: MaskGrid
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields (n, H, W) logits of masks that the model rates well, and the (n,) ratings and numbers of their clicks."""
    found = decoder.masks(clicks, grid.predicted_iou)
    size = (embedding.height, embedding.width)
    chunk = max(1, _ENLARGED // max(size[0] * size[1], sam.image_encoder.img_size**2))
    for logits, ratings, numbers in zip(*(part.split(chunk) for part in found), strict=True):
        if len(logits):
            yield sam.postprocess_masks(logits[None], embedding.fitted, size)[0], ratings, numbers


def _unpacked(bits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.unpackbits(bits, count=size[0] * size[1]).view(bool).reshape(size)
