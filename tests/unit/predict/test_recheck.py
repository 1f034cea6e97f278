"""A second look: who is asked, what of, and what becomes of the answer."""

import types

import numpy as np
import pytest
import torch

from foodseg.config.roi import RoiConfig
from foodseg.errors import UserError
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.recheck import Recheck, build_recheck, combined

CLASSES = ("background", "rice", "egg")
LOGITS = torch.zeros(3, 4, 4)
LOGITS[1, :2, :] = 4.0  # rice above, sure
LOGITS[2, 2:, :2] = 0.5  # egg below at the left, doubtful
LOGITS[0, 2:, 2:] = 3.0


class Asked:
    """A region classifier that always says one thing, and notes what it was asked."""

    uri = "runs/roi"
    classes = CLASSES
    config = types.SimpleNamespace(regions=RoiConfig(), roi=RoiConfig(least_share=0.1))

    def __init__(self, *says: float) -> None:
        self.says, self.regions = says, []
        self.scorer = self

    def logits(self, image: np.ndarray, regions: list) -> np.ndarray:
        assert image.shape == (4, 4, 3)
        self.regions += regions
        return np.array([self.says] * len(regions), np.float32)


def look(asked: Asked, below: float) -> tuple:
    found = ImageLogits(LOGITS, 1, (4, 4), 4, 4)
    ids, confidence = found.ids_and_confidence(1.0)
    before = ids.copy(), confidence.copy()
    answer = Recheck(asked, below)(np.zeros((4, 4, 3), np.uint8), found, ids, confidence, 1.0)  # type: ignore[arg-type]
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(confidence, before[1])
    return (*answer, before)


def test_only_doubtful_regions_are_asked_about_and_renamed() -> None:
    asked = Asked(0.0, 3.0, 0.0)
    ids, confidence, regions, (ids_before, confidence_before) = look(asked, 0.6)
    (region,) = asked.regions
    assert region.label == 2 and region.mask[2:, :2].all() and region.mask.sum() == 4
    assert (ids[2:, :2] == 1).all()
    rest = ~region.mask
    np.testing.assert_array_equal(ids[rest], ids_before[rest])
    np.testing.assert_array_equal(confidence[rest], confidence_before[rest])
    (found,) = regions
    first, second = torch.tensor([0.0, 0, 0.5]).softmax(0), torch.tensor([0.0, 3, 0]).softmax(0)
    assert (found.before, found.after, found.pixels, found.box) == ("egg", "rice", 4, (0, 2, 2, 2))
    assert found.confidence == pytest.approx(float(first[2]), abs=1e-4)
    assert found.score == pytest.approx(float((first + second)[1]) / 2, abs=1e-5)
    assert confidence[3, 0] == round(found.score * 65535)


def test_a_name_that_is_confirmed_stays_with_its_confidence() -> None:
    ids, confidence, regions, before = look(Asked(0.0, 0.0, 3.0), 0.6)
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(confidence, before[1])
    assert [(each.before, each.after) for each in regions] == [("egg", "egg")]


def test_nobody_is_asked_where_all_are_sure() -> None:
    asked = Asked(0.0, 3.0, 0.0)
    ids, confidence, regions, before = look(asked, 0.3)
    assert ids is not None and regions == () and asked.regions == []
    np.testing.assert_array_equal(confidence, before[1])


def test_the_temperature_is_of_the_segmenter_alone() -> None:
    found = ImageLogits(LOGITS, 1, (4, 4), 4, 4)
    region = types.SimpleNamespace(mask=np.ones((4, 4), bool))
    second = np.array([[1.0, 2.0, 0.0]], np.float32)
    (shares,) = combined(found, [region], second, 2.0)  # type: ignore[list-item]
    first = (LOGITS.mean((1, 2)) / 2).softmax(0)
    np.testing.assert_allclose(shares, (first + torch.from_numpy(second[0]).softmax(0)) / 2, rtol=1e-5)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UserError, match=r"is above 0 and at most 1, found 1\.2"):
        Recheck(Asked(), 1.2)  # type: ignore[arg-type]
    segmenter = Asked()
    segmenter.config = types.SimpleNamespace(regions=None)
    with pytest.raises(UserError, match="runs/roi is a segmenter, and a second look needs a region classifier"):
        Recheck(segmenter)  # type: ignore[arg-type]
    cpu = torch.device("cpu")
    assert build_recheck(None, None, cpu, CLASSES) is None
    with pytest.raises(UserError, match="needs a region classifier: --recheck RUN"):
        build_recheck(None, 0.5, cpu, CLASSES)


def test_other_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("foodseg.predict.recheck.load_region_classifier", lambda uri, device: Asked())
    assert build_recheck("runs/roi", None, torch.device("cpu"), CLASSES) is not None
    with pytest.raises(UserError, match="knows other classes than the segmenter"):
        build_recheck("runs/roi", None, torch.device("cpu"), ("background", "kimchi"))
