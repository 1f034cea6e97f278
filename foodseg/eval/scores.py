"""All scores of one evaluation, from its counts: what `metrics.json` holds and the reports show."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from foodseg.errors import UserError
from foodseg.eval.scoring import Scored
from foodseg.metrics.boundary import BoundaryScores, boundary_scores, merge_boundary
from foodseg.metrics.calibration import CalibrationScores, calibration_scores
from foodseg.metrics.confusion import Scores, scores
from foodseg.metrics.ingredients import IngredientScores, ingredient_scores
from foodseg.metrics.per_image import merge


@dataclass(frozen=True)
class Evaluation:
    """Scores of labels, of their outlines, of the ingredients named, of confidences.

    calibration: None for label maps without confidences.
    calibration_note: where the temperature comes from, or why there are no scores of confidences.
    """

    scores: Scores
    boundary: BoundaryScores
    ingredients: IngredientScores
    calibration: CalibrationScores | None
    calibration_note: str


def summarise_evaluation(
    scored: Scored,
    names: Sequence[str],
    *,
    subsets: Mapping[str, Sequence[int]],
    trained_ids: Collection[int] | None,
    calibration_note: str,
) -> Evaluation:
    """Divides the counts of all images into scores.

    Args:
        names: K class names.
        subsets, trained_ids: as in `scores` of `metrics/confusion.py`.

    Raises:
        UserError: no image has a labelled pixel, or an id is outside the label space.
    """
    if not scored.images:
        raise UserError("nothing to score: there is no labelled image")
    matrix = merge(scored.images, len(names))
    return Evaluation(
        scores=scores(matrix, names, subsets=subsets, trained_ids=trained_ids),
        boundary=boundary_scores(merge_boundary(scored.images, len(names)), subsets=subsets, trained_ids=trained_ids),
        ingredients=ingredient_scores(scored.images, names),
        calibration=calibration_scores(scored.confidence) if scored.confidence is not None else None,
        calibration_note=calibration_note,
    )
