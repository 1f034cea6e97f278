"""Class scores of regions: both ways round, in batches, of a segmenter by hand, and exchanged contexts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model, load_region_network
from foodseg.config.load import with_eval_overrides
from foodseg.data.regions import Region, box_of
from foodseg.data.roi_views import region_views
from foodseg.predict.predictor import Predictor
from foodseg.predict.region_predictor import REGIONS_AT_ONCE, OtherContexts, RegionMeans, RegionPredictor
from tests.support.compare import assert_close
from tests.support.tiny_checkpoints import meal, write_checkpoint, write_region_classifier

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGE = meal(5, 60, 90)
CPU = torch.device("cpu")


def regions_of(count: int) -> list[Region]:
    found = []
    for index in range(count):
        mask = np.zeros(IMAGE.shape[:2], bool)
        mask[index : index + 20, 2 * index : 2 * index + 9] = True
        found.append(Region(0, mask, box_of(mask)))
    return found


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_region_classifier(tmp_path_factory.mktemp("roi") / "c")


def predictor_of(uri: str, *overrides: str) -> RegionPredictor:
    checkpoint = load_checkpoint(uri)
    config = with_eval_overrides(checkpoint.config, overrides)
    return RegionPredictor(load_region_network(checkpoint, "student"), config, CPU)


def test_logits_are_those_of_the_network_on_the_views(uri: str) -> None:
    predictor, (region,) = predictor_of(uri), regions_of(1)
    views = region_views(IMAGE, region, "roi_context", side=32, margin=0.25)
    with torch.no_grad():
        expected = predictor.network(torch.from_numpy(views.copy()).permute(0, 3, 1, 2)[None].float() / 255).averaged
    found = predictor.logits(IMAGE, [region])
    assert found.shape == (1, expected.shape[1]) and found.dtype == np.float32
    assert_close(torch.from_numpy(found), expected)


def test_mirrored_views_are_averaged(uri: str) -> None:
    regions = regions_of(3)
    plain = predictor_of(uri)
    own = plain.logits(IMAGE, regions)
    mirrored = plain.logits_of_views([view[:, :, ::-1] for view in plain.views(IMAGE, regions)])
    assert not np.allclose(own, mirrored, atol=1e-3)
    found = predictor_of(uri, "eval.flip=true").logits(IMAGE, regions)
    np.testing.assert_allclose(found, (own + mirrored) / 2, rtol=1e-4, atol=1e-5)


def test_more_regions_than_a_batch_are_as_one_by_one(uri: str) -> None:
    predictor, regions = predictor_of(uri), regions_of(REGIONS_AT_ONCE + 3)
    together = predictor.logits(IMAGE, regions)
    singly = np.concatenate([predictor.logits(IMAGE, [region]) for region in regions])
    assert len(together) == REGIONS_AT_ONCE + 3
    assert len(np.unique(together.round(3), axis=0)) == len(together)  # else the order would not show
    np.testing.assert_allclose(together, singly, rtol=1e-4, atol=1e-4)


def test_no_regions(uri: str) -> None:
    assert len(predictor_of(uri).logits(IMAGE, [])) == 0


def test_a_segmenter_gives_the_mean_logits_of_a_region(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(write_checkpoint(tmp_path / "c", 1, "eval.longest_side=64"))
    predictor = Predictor(load_model(checkpoint, "student"), checkpoint.config.eval, CPU)
    regions = regions_of(3)
    found = RegionMeans(predictor).logits(IMAGE, regions)
    (logits,) = predictor.logits([IMAGE], [(60, 90)])
    for region, means in zip(regions, found, strict=True):
        expected = logits.at(np.flatnonzero(region.mask.ravel())).mean(1)
        np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-4)


def test_contexts_are_those_of_the_image_before_of_the_same_source() -> None:
    def views(*values: tuple[int, int]) -> list[np.ndarray]:
        return [np.array(each, np.uint8)[:, None, None, None].repeat(2, 1).repeat(2, 2).repeat(3, 3) for each in values]

    def shown(found: list[np.ndarray]) -> list[list[int]]:
        return [each[:, 0, 0, 0].tolist() for each in found]

    others = OtherContexts()
    assert shown(others.exchange("a", views((1, 10), (2, 20)))) == [[1, 10], [2, 10]]
    assert shown(others.exchange("b", views((5, 50)))) == [[5, 50]]
    assert others.exchange("a", []) == []
    assert shown(others.exchange("a", views((3, 30), (4, 40)))) == [[3, 10], [4, 10]]
    assert shown(others.exchange("a", views((6, 60)))) == [[6, 30]]
