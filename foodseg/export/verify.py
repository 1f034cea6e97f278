"""Compares an exported graph with the network on images, by the predictor that both are used with.

    found = compared(predictor_of_the_network, predictor_of_the_graph, images)
    require_close(found, "float32")      # refuses above the bound

What is compared is what a user gets: class scores after windows, mirroring and several sizes, and label maps of the
images' own size. A model with text fusion is compared once more, conditioned on what its label map has.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from foodseg.errors import FoodsegError
from foodseg.models.exported import Precision
from foodseg.predict.predictor import Predictor

# the greatest difference of logits, as a share of the greatest logit, and the least share of pixels of equal id.
# Quantised scores differ everywhere; what matters there is the label map, and mIoU, which is measured beside it.
BOUNDS: dict[Precision, tuple[float, float]] = {"float32": (1e-3, 0.999), "int8": (math.inf, 0.85)}


class ExportDiffers(FoodsegError):
    """An exported graph does not compute what the network computes."""

    exit_code = 1


@dataclass(frozen=True)
class Comparison:
    """images: how many. largest_difference: of a logit. largest_logit: of the network. equal_ids: share of pixels."""

    images: int
    largest_difference: float
    largest_logit: float
    equal_ids: float


def compared(
    network: tuple[Predictor, Predictor | None], graph: tuple[Predictor, Predictor | None], images: Iterable[bytes]
) -> Comparison:
    """Labels encoded images with both.

    Args:
        network, graph: a predictor without, and for a model with text fusion one with, provided ingredients.

    Raises:
        UserError: an image cannot be read.
    """
    count, pixels, equal, difference, largest = 0, 0, 0, 0.0, 0.0
    for image in images:
        count += 1
        provided = None
        for ours, theirs in zip(network, graph, strict=True):
            if ours is None or theirs is None:
                continue
            expected, found = ours.logits_of_file(image, provided), theirs.logits_of_file(image, provided)
            values = expected.values.float()
            difference = max(difference, float((values - found.values).abs().amax()))
            largest = max(largest, float(values.abs().amax()))
            ids = expected.ids()
            equal += int(np.count_nonzero(ids == found.ids()))
            pixels += ids.size
            provided = np.unique(ids).tolist()
    assert count, "no image to compare on"
    return Comparison(count, difference, largest, equal / pixels)


def require_close(found: Comparison, precision: Precision) -> None:
    """Raises ExportDiffers above the bound of `BOUNDS`."""
    relative, least = BOUNDS[precision]
    far = not found.largest_difference <= relative * found.largest_logit  # of NaN, too
    if far or found.equal_ids < least:
        advice = "export without --int8" if precision == "int8" else "use the checkpoint itself"
        allowed = "" if math.isinf(relative) else f"{relative:g} of the greatest logit ({found.largest_logit:.3g}) and "
        raise ExportDiffers(
            f"the exported model is not the checkpoint: on {found.images} images logits differ by up to "
            f"{found.largest_difference:.3g}, and {100 * found.equal_ids:.2f} % of the pixels have the same id; "
            f"{allowed}{100 * least:g} % are the bound, so nothing was written: {advice}"
        )
