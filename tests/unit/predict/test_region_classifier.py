"""Regions that are named: by a region classifier, by a segmenter, and what of them is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.data.regions import Region, box_of
from foodseg.demo.synthetic import SYNTHETIC_CLASSES
from foodseg.errors import UserError
from foodseg.predict.predictor import Predictor
from foodseg.predict.region_classifier import RegionClassifier, load_region_classifier, region_labels
from tests.support.tiny_checkpoints import meal, png, write_checkpoint, write_region_classifier

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGE = meal(5, 60, 90)


def masks() -> list[np.ndarray]:
    """Of 20 x 9 pixels, and of a quarter of the image."""
    found = np.zeros((2, 60, 90), bool)
    found[0, 10:30, 40:49] = True
    found[1, :30, :45] = True
    return list(found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classifiers")
    write_region_classifier(folder / "roi")
    write_checkpoint(folder / "segmenter", 1, "eval.longest_side=64")
    (folder / "lunch.png").write_bytes(png(IMAGE))
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> RegionClassifier:
    return load_region_classifier(folder / "roi", device="cpu")


def softmax(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).double().softmax(-1).numpy()


def test_a_region_is_named_by_its_scores(model: RegionClassifier) -> None:
    found = model.classify(IMAGE, masks())
    regions = [Region(0, mask, box_of(mask)) for mask in masks()]
    for label, logits in zip(found, model.scorer.logits(IMAGE, regions), strict=True):
        shares = softmax(logits)
        best, second = np.argsort(-shares)[:2]
        assert (label.id, label.name, label.second) == (best, model.classes[best], model.classes[second])
        assert (label.score, label.second_score) == pytest.approx((shares[best], shares[second]))
        assert label.margin == pytest.approx(shares[best] - shares[second])
    assert [(each.pixels, each.share_of_image, each.box) for each in found] == [
        (180, 180 / 5400, (40, 10, 9, 20)), (1350, 0.25, (0, 0, 45, 30)),
    ]  # fmt: skip
    assert repr(model).endswith(f": {len(SYNTHETIC_CLASSES)} classes, region classifier)")


def test_a_segmenter_names_by_the_softmax_of_its_mean_logits(folder: Path) -> None:
    found = load_region_classifier(folder / "segmenter", device="cpu")
    checkpoint = load_checkpoint(str(folder / "segmenter"))
    predictor = Predictor(load_model(checkpoint, "student"), checkpoint.config.eval, torch.device("cpu"))
    (logits,) = predictor.logits([IMAGE], [(60, 90)])
    for label, mask in zip(found.classify(IMAGE, masks()), masks(), strict=True):
        shares = softmax(logits.at(np.flatnonzero(mask.ravel())).mean(1))
        assert label.id == shares.argmax() and label.score == pytest.approx(shares.max(), rel=1e-4)
        assert label.second_score == pytest.approx(np.sort(shares)[-2], rel=1e-4)
    assert "segmenter, by its mean scores" in repr(found)


def test_a_path_an_array_and_masks_of_integers_are_the_same(model: RegionClassifier, folder: Path) -> None:
    expected = model.classify(IMAGE, masks())
    assert model.classify(folder / "lunch.png", masks()) == expected
    assert model.classify(str(folder / "lunch.png"), [mask.astype(np.uint8) * 255 for mask in masks()]) == expected


def test_the_classes_of_the_labels_by_hand() -> None:
    mask = np.ones((2, 2), bool)
    (found,) = region_labels(np.log([[0.2, 0.5, 0.3]]), [Region(0, mask, box_of(mask))], ("background", "rice", "egg"))
    assert (found.id, found.name, found.second) == (1, "rice", "egg")
    assert (found.score, found.second_score, found.margin) == pytest.approx((0.5, 0.3, 0.2))


def test_masks_that_do_not_fit_are_refused(model: RegionClassifier) -> None:
    with pytest.raises(UserError, match=r"masks\[1\] has shape \(90, 60\), and the image \(60, 90\) \(height, width\)"):
        model.classify(IMAGE, [masks()[0], masks()[1].T])
    with pytest.raises(UserError, match=r"masks\[0\] has no pixel"):
        model.classify(IMAGE, [np.zeros((60, 90), bool)])
    with pytest.raises(UserError, match="found 0 masks"):
        model.classify(IMAGE, [])


def test_what_is_no_image_is_refused(model: RegionClassifier, tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(png(IMAGE)[:300])
    with pytest.raises(UserError, match=f"^{tmp_path}/torn.png: "):
        model.classify(tmp_path / "torn.png", masks())


def test_settings_of_the_evaluation(folder: Path, model: RegionClassifier) -> None:
    flipped = load_region_classifier(folder / "roi", device="cpu", overrides=["eval.flip=true"])
    assert flipped.config.eval.flip and not model.config.eval.flip
    assert flipped.classify(IMAGE, masks()) != model.classify(IMAGE, masks())
    with pytest.raises(UserError, match=r"eval\.weights = ema needs train\.ema_horizon above 0"):
        load_region_classifier(folder / "roi", device="cpu", weights="ema")


def test_one_that_was_trained_for_comparison_alone_is_refused(tmp_path: Path) -> None:
    other = write_region_classifier(tmp_path / "other", 3, "roi.views=roi_other_context")
    with pytest.raises(UserError, match="trained for comparison alone, with the context of other images"):
        load_region_classifier(other, device="cpu").classify(IMAGE, masks())
