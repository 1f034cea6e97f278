"""A second look at the doubtful regions of a label map by the model that names regions, as one coroutine.

    looked = await look_again(image, labelled, regions, seconds=10)

The rule is that of `predict/recheck.py`. The segmenter's replica finds the doubtful regions, where its class scores
are; only their masks and a row of probabilities each travel to the ingress, and only their masks on to the model.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foodseg.data.regions import Region
from foodseg.predict.region_label import averaged
from foodseg.serve.http.schema import ApiError
from foodseg.serve.protocols import Labelled, RegionsBackend

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Rechecked:
    """A region that was looked at again. before, after: ids. confidence, score: as of `RecheckedRegion`."""

    region: Region
    before: int
    after: int
    confidence: float
    score: float


async def look_again(
    image: np.ndarray, labelled: Labelled, regions: RegionsBackend, seconds: float
) -> tuple[Labelled, list[Rechecked]] | None:
    """Returns the label map with doubtful regions renamed, and what was looked at, the largest first.

    None: the model is not available, or did not answer within so many seconds.

    Args:
        image: (H, W, 3) uint8 RGB. labelled: of the same size, with its doubtful regions.
    """
    doubtful = labelled.doubtful
    assert doubtful is not None
    if not doubtful.regions:
        return labelled, []
    try:
        second = await asyncio.wait_for(regions.logits(image, doubtful.regions), seconds)
    except asyncio.TimeoutError:
        return None
    except ApiError as error:
        if error.status not in (429, 503):
            raise
        _log.warning("no second look: %s", error)
        return None
    shares = averaged(doubtful.probabilities, second)
    found = [
        Rechecked(region, region.label, int(own.argmax()), confidence, float(own.max()))
        for region, confidence, own in zip(doubtful.regions, doubtful.confidences, shares, strict=True)
    ]
    found.sort(key=lambda each: -np.count_nonzero(each.region.mask))
    return await asyncio.to_thread(renamed, labelled, found), found


def renamed(labelled: Labelled, found: Sequence[Rechecked]) -> Labelled:
    """Returns the label map with the ids after the second look; the mean confidence of each id is corrected for it."""
    ids, counts = labelled.ids.copy(), np.bincount(labelled.ids.ravel())
    totals = {index: mean * int(counts[index]) for index, mean in labelled.confidences.items() if index < len(counts)}
    for each in found:
        if each.after == each.before:
            continue
        ids[each.region.mask] = each.after
        pixels = int(np.count_nonzero(each.region.mask))
        totals[each.before] = totals.get(each.before, 0.0) - each.confidence * pixels
        totals[each.after] = totals.get(each.after, 0.0) + each.score * pixels
    counts = np.bincount(ids.ravel())
    present = np.flatnonzero(counts).tolist()
    confidences = {index: totals[index] / int(counts[index]) for index in present if index in totals}
    return replace(labelled, ids=ids, confidences=confidences, doubtful=None)
