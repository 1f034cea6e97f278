"""A second look over fakes, worked out by hand on 4 x 4 pixels; what the endpoint does is what `predict` does."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.data.regions import Box, Region
from foodseg.predict.device import pick_device
from foodseg.predict.labelling import Labelling
from foodseg.predict.predictor import Predictor
from foodseg.predict.recheck import Recheck
from foodseg.predict.region_classifier import load_region_classifier
from foodseg.serve.http.schema import ApiError
from foodseg.serve.packing import pack_labels, pack_parts, unpack_labels, unpack_parts
from foodseg.serve.protocols import Doubtful, Labelled, RegionsCard, SecondLook
from foodseg.serve.recheck import look_again
from foodseg.serve.served_model import ServedModel, checkpoint_sha
from foodseg.serve.served_regions import ServedRegions, regions_card
from tests.support.tiny_checkpoints import meal, write_checkpoint, write_region_classifier

CARD = RegionsCard("runs/roi", "ab" * 32, ("background", "rice", "egg"), 0.0, True)
IMAGE = np.zeros((4, 4, 3), np.uint8)
LEFT = np.array([[1, 0, 0, 0]] * 4, bool)
CORNER = np.zeros((4, 4), bool)
CORNER[3, 3] = CORNER[2, 3] = True


class Says:
    """Always gives the same class scores, after a while or not at all."""

    card = CARD

    def __init__(self, *scores: float, after: float = 0.0, error: Exception | None = None) -> None:
        self.scores, self.after, self.error = scores, after, error
        self.asked: list[Region] = []

    async def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        self.asked += regions
        await asyncio.sleep(self.after)
        if self.error is not None:
            raise self.error
        return np.array([self.scores] * len(regions), np.float32)


def labelled(*doubtful: tuple[Region, float]) -> Labelled:
    ids = np.where(LEFT, 1, 2).astype(np.uint8)
    ids[CORNER] = 1
    equal = np.full((len(doubtful), 3), 1 / 3, np.float32)
    found = Doubtful([region for region, _ in doubtful], tuple(mean for _, mean in doubtful), equal)
    return Labelled(ids, None, {1: 0.5, 2: 0.8}, "meals", "ab", found)


REGIONS = [(Region(1, CORNER, Box(2, 3, 4, 4)), 0.3), (Region(1, LEFT, Box(0, 0, 4, 1)), 0.6)]


def look(says: Says, before: Labelled, seconds: float = 5.0) -> tuple[Labelled, list] | None:
    return asyncio.run(look_again(IMAGE, before, says, seconds))


def test_doubtful_regions_are_renamed_and_their_confidences_counted() -> None:
    before, says = labelled(*REGIONS), Says(0.0, 0.0, 5.0)
    after, found = look(says, before)  # type: ignore[misc]
    assert [each.region for each in found] == [REGIONS[1][0], REGIONS[0][0]]  # the largest first
    score = (1 / 3 + float(torch.tensor([0.0, 0, 5]).softmax(0)[2])) / 2
    assert [(each.before, each.after, each.confidence) for each in found] == [(1, 2, 0.6), (1, 2, 0.3)]
    assert all(each.score == pytest.approx(score, abs=1e-6) for each in found)
    assert (after.ids == 2).all() and after.doubtful is None
    assert after.confidences == {2: pytest.approx((10 * 0.8 + 6 * score) / 16)}
    assert (before.ids[CORNER] == 1).all()  # what came in stays


def test_the_rest_of_a_class_keeps_its_own_confidence() -> None:
    after, _ = look(Says(0.0, 0.0, 5.0), labelled(REGIONS[0]))  # type: ignore[misc]
    # rice: six pixels of mean 0.5, of which two of 0.3 went
    assert after.confidences[1] == pytest.approx((6 * 0.5 - 2 * 0.3) / 4)
    assert (after.ids[LEFT] == 1).all() and (after.ids[CORNER] == 2).all()


def test_a_name_that_is_confirmed_changes_nothing() -> None:
    before = labelled(*REGIONS)
    after, found = look(Says(0.0, 5.0, 0.0), before)  # type: ignore[misc]
    np.testing.assert_array_equal(after.ids, before.ids)
    assert after.confidences == {1: pytest.approx(0.5), 2: pytest.approx(0.8)}
    assert [(each.before, each.after) for each in found] == [(1, 1)] * 2


def test_nobody_is_asked_where_nothing_is_doubtful() -> None:
    before, says = labelled(), Says(0.0, 0.0, 1.0)
    assert look(says, before) == (before, []) and not says.asked


def test_too_late_or_not_available_is_no_answer_and_other_errors_are_errors() -> None:
    assert look(Says(0, 0, 1, after=30.0), labelled(*REGIONS), seconds=0.05) is None
    for status in (429, 503):
        assert look(Says(0, 0, 1, error=ApiError(status, "x", "x")), labelled(*REGIONS)) is None
    with pytest.raises(ApiError, match="ours"):
        look(Says(0, 0, 1, error=ApiError(500, "internal", "ours")), labelled(*REGIONS))


def test_packing_regions_is_lossless_and_as_small_as_their_boxes() -> None:
    regions = [Region(7, CORNER, Box(2, 3, 4, 4)), Region(300, ~CORNER, Box(0, 0, 4, 4))]
    packed = pack_parts(regions, (4, 4))
    assert [bits.nbytes for bits in packed.bits] == [1, 2]
    for one, other in zip(regions, unpack_parts(packed), strict=True):
        assert (one.label, one.box) == (other.label, other.box)
        np.testing.assert_array_equal(one.mask, other.mask)
    before = labelled(*REGIONS)
    doubtful = unpack_labels(pack_labels(before)).doubtful
    assert doubtful is not None and before.doubtful is not None
    assert doubtful.confidences == (0.3, 0.6)
    np.testing.assert_array_equal(doubtful.probabilities, before.doubtful.probabilities)
    np.testing.assert_array_equal(doubtful.regions[1].mask, LEFT)


class InProcess:
    def __init__(self, checkpoint: str) -> None:
        self.card = regions_card(checkpoint)
        self._model = ServedRegions(self.card)

    async def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        return self._model.logits(image, unpack_parts(pack_parts(regions, image.shape)))


def test_it_is_the_second_look_of_predict(tmp_path: Path) -> None:
    segmenter, roi = write_checkpoint(tmp_path / "a", 1), write_region_classifier(tmp_path / "roi", 2)
    loaded, below = load_checkpoint(segmenter), 0.9
    predictor = Predictor(load_model(loaded, "student"), loaded.config.eval, pick_device())
    recheck = Recheck(load_region_classifier(roi), below)
    image = meal(3, 72, 96)
    labelling = Labelling(predictor, loaded.classes.names, "vocabulary", False, 1.0, recheck=recheck)
    (right,) = labelling.predict([image], 1)
    regions = InProcess(roi)
    model = ServedModel("meals", segmenter, checkpoint_sha(segmenter))
    second = SecondLook(below, regions.card.least_share)
    (plain, mine) = model.label([image, image], [(72, 96)] * 2, second_looks=[None, second])
    assert plain.doubtful is None
    looked = asyncio.run(look_again(image, unpack_labels(pack_labels(mine)), regions, 60.0))
    assert looked is not None and right.rechecked
    after, found = looked
    np.testing.assert_array_equal(after.ids, right.ids)
    assert (after.ids != plain.ids).any()
    names = regions.card.classes
    assert [(names[each.before], names[each.after]) for each in found] == [
        (each.before, each.after) for each in right.rechecked
    ]
    assert [each.score for each in found] == pytest.approx([each.score for each in right.rechecked], rel=1e-4)
    for index, mean in after.confidences.items():
        pixels = right.confidence_16bit[right.ids == index]
        assert mean == pytest.approx(float(pixels.mean()) / 65535, abs=1e-4)
