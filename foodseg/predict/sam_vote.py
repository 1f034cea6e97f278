"""The SAM vote (FoodSAM: Lan et al., 2023), and CLIP's second opinion where the segmenter has low confidence.

Each mask of Segment Anything takes the label that most of its pixels have: borders become those of the mask, and specks
inside it vanish. Where a whole mask has low confidence, CLIP may relabel it.

    ballots = count_votes(ids, masks, low_confidence)
    questions = doubtful(ballots)
    scores = clip.mask_scores(image, [masks[ballot.mask] for ballot in questions], names[1:])
    ids = paint(ids, masks, second_opinion(ballots, questions, scores))

Shape letters: H, W of the label map; n masks; K classes with background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from foodseg.classes import BACKGROUND
from foodseg.data.regions import MAJORITY

KEEP = 80  # masks, the largest ones
LOW_CONFIDENCE = 0.5  # share of low-confidence pixels from which on a mask is doubtful
CERTAIN = 0.5  # score from which on CLIP's label is used


@dataclass(frozen=True)
class Ballot:
    """What the pixels of one mask voted for.

    mask: index into the masks. label: id that the mask takes. pixels: its size.
    majority: share of its pixels that have the label. low_confidence: share of its low-confidence pixels.
    certainty: CLIP's score where it chose the label, else None.
    """

    mask: int
    label: int
    pixels: int
    majority: float
    low_confidence: float
    certainty: float | None = None


def largest(masks: Sequence[np.ndarray], keep: int = KEEP) -> list[int]:
    """Returns which masks are the `keep` largest, the largest first; not those without a pixel."""
    sizes = np.array([np.count_nonzero(mask) for mask in masks], np.int64)
    return [int(index) for index in np.argsort(-sizes, kind="stable")[:keep] if sizes[index]]


def count_votes(
    ids: np.ndarray,
    masks: Sequence[np.ndarray],
    low_confidence: np.ndarray | None = None,
    *,
    keep: int = KEEP,
    majority: float = MAJORITY,
) -> list[Ballot]:
    """Counts the votes of the `keep` largest masks, the largest first; a mask with a lower majority is left out.

    Args:
        ids: (H, W) uint8 or uint16. masks: n x (H, W) bool.
        low_confidence: (H, W) bool, or None where it is not known: then no mask is doubtful.

    Among equally frequent ids the smallest wins; every mask votes on the segmenter's own map.
    """
    ballots = []
    for index in largest(masks, keep):
        mask = masks[index]
        size = int(np.count_nonzero(mask))
        counts = np.bincount(ids[mask])
        label = int(counts.argmax())
        share = int(counts[label]) / size
        if share >= majority:
            doubt = 0.0 if low_confidence is None else np.count_nonzero(low_confidence & mask) / size
            ballots.append(Ballot(index, label, size, share, doubt))
    return ballots


def paint(ids: np.ndarray, masks: Sequence[np.ndarray], ballots: Sequence[Ballot]) -> np.ndarray:
    """Returns a copy of the label map in which each mask has its label; a later (smaller) mask lies on top."""
    painted = ids.copy()
    for ballot in ballots:
        painted[masks[ballot.mask]] = ballot.label
    return painted


def doubtful(ballots: Sequence[Ballot], low_confidence: float = LOW_CONFIDENCE) -> list[Ballot]:
    """Returns the ballots that CLIP is asked about: of an ingredient, with mostly low-confidence pixels.

    Background is left out: it has no text embedding, so CLIP has no score to compare with.
    """
    return [ballot for ballot in ballots if ballot.label != BACKGROUND and ballot.low_confidence >= low_confidence]


def second_opinion(
    ballots: Sequence[Ballot],
    questions: Sequence[Ballot],
    scores: Sequence[Sequence[float]],
    certain: float = CERTAIN,
) -> list[Ballot]:
    """Returns all ballots, those of `questions` with CLIP's label where its best score is at least `certain`.

    Args:
        scores: per question K - 1 scores in [0, 1] of the ids 1 to K - 1.
    """
    answers = dict(zip((question.mask for question in questions), scores, strict=True))
    decided = []
    for ballot in ballots:
        answer = np.asarray(answers.get(ballot.mask, ()))
        if answer.size and answer.max() >= certain:
            ballot = replace(ballot, label=int(answer.argmax()) + 1, certainty=float(answer.max()))
        decided.append(ballot)
    return decided


def refined_confidences(
    ids: np.ndarray, confidences: Mapping[int, float], ballots: Sequence[Ballot]
) -> dict[int, float]:
    """Returns a confidence for each id of the repainted map, in order of ids.

    An id of the segmenter's map has the segmenter's confidence (the mean over its pixels in that map). An id that only
    CLIP brought in has CLIP's, the mean over its masks.
    """
    found: dict[int, float] = {}
    for label in (int(value) for value in np.flatnonzero(np.bincount(ids.ravel()))):
        if label in confidences:
            found[label] = confidences[label]
        else:
            certain = [ballot.certainty for ballot in ballots if ballot.label == label and ballot.certainty is not None]
            found[label] = float(np.mean(certain))
    return found
