"""The SAM vote over a label map, with a second opinion of CLIP where confidence is low, as one coroutine.

It is separate from its deployment (`ray_refine`), so that it runs and is tested without Ray.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from foodseg.config.serve import RefineConfig
from foodseg.predict.sam_vote import Ballot, count_votes, doubtful, paint, refined_confidences, second_opinion
from foodseg.serve.protocols import ClipBackend, Labelled, SamBackend

MASKS_SHARE = 0.8  # of the time for a vote; the rest is for counting, and for CLIP


async def vote(
    image: np.ndarray,
    labelled: Labelled,
    names: Sequence[str],
    config: RefineConfig,
    sam: SamBackend,
    clip: ClipBackend | None,
) -> Labelled | None:
    """Returns the label map redrawn along SAM's masks, those that are found in time; None without any.

    Args:
        image: (H, W, 3) uint8 RGB. labelled: of the same size. names: of the model's classes, id by id.
    """
    masks = [found.mask for found in await sam.masks(image, MASKS_SHARE * config.seconds)]
    if not masks:
        return None
    ballots = await asyncio.to_thread(
        count_votes, labelled.ids, masks, labelled.low_confidence, keep=config.largest_masks, majority=config.majority
    )
    questions = doubtful(ballots) if clip is not None else []
    if clip is not None and questions:
        # background has no name that CLIP could compare with
        scores = await clip.mask_scores(image, [masks[question.mask] for question in questions], names[1:])
        ballots = second_opinion(ballots, questions, scores)
    return await asyncio.to_thread(_painted, labelled, masks, ballots)


def _painted(labelled: Labelled, masks: Sequence[np.ndarray], ballots: Sequence[Ballot]) -> Labelled:
    ids = paint(labelled.ids, masks, ballots)
    return replace(labelled, ids=ids, confidences=refined_confidences(ids, labelled.confidences, ballots))
