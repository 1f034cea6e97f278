"""The model of regions on a real Ray Serve, with a tiny region classifier: given masks, and the second look."""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import httpx
import numpy as np
import pytest

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.data.image_io import encode_mask
from foodseg.predict.device import pick_device
from foodseg.predict.labelling import Labelling
from foodseg.predict.predictor import Predictor
from foodseg.predict.recheck import Recheck
from foodseg.predict.region_classifier import load_region_classifier
from foodseg.serve.client import Client, label_map
from foodseg.serve.ray_serving import ServedEndpoint, serving
from foodseg.serve.served_model import checkpoint_sha
from tests.support.tiny_checkpoints import free_port, meal, png, write_checkpoint, write_region_classifier

BELOW = 0.9
SIZE = (72, 96)


@dataclass(frozen=True)
class World:
    endpoint: ServedEndpoint
    segmenter: str
    roi: str


@pytest.fixture(scope="module")
def world(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("regions")
    segmenter, roi = write_checkpoint(folder / "a", 1), write_region_classifier(folder / "roi", 2)
    settings = [
        f"segmenter.models.meals={segmenter}", f"http.port={free_port()}", f"regions.model={roi}",
        f"regions.below={BELOW}", "regions.seconds=60",
    ]  # fmt: skip
    with serving(None, settings) as endpoint:
        yield World(endpoint, segmenter, roi)


def test_given_masks_are_named_as_the_python_api_names_them(world: World) -> None:
    image, ids = meal(3, *SIZE), np.zeros(SIZE, np.uint8)
    ids[10:40, 20:70], ids[50:, 5:90] = 1, 5
    right = load_region_classifier(world.roi).classify(image, [ids == 1, ids == 5])
    rle = [{"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}]
    with Client(world.endpoint.url) as client:
        answer = client.classify_regions(png(image), encode_mask(ids))
        whole = client.classify_regions(png(image), rle)  # type: ignore[arg-type]
        models = client.models()
    assert [(each.number, each.name, each.second, each.box) for each in answer.regions] == [
        (number, each.name, each.second, each.box) for number, each in zip((1, 5), right, strict=True)
    ]
    assert [each.score for each in answer.regions] == pytest.approx([each.score for each in right], rel=1e-4)
    assert (whole.regions[0].pixels, whole.regions[0].share_of_image) == (SIZE[0] * SIZE[1], 1.0)
    assert answer.model.sha == checkpoint_sha(world.roi)
    assert models.regions is not None and (models.regions.serving, models.regions.recheck) == (world.roi, True)


def test_a_second_look_is_that_of_predict(world: World) -> None:
    loaded = load_checkpoint(world.segmenter)
    predictor = Predictor(load_model(loaded, "student"), loaded.config.eval, pick_device())
    recheck = Recheck(load_region_classifier(world.roi), BELOW)
    labelling = Labelling(predictor, loaded.classes.names, "vocabulary", False, 1.0, recheck=recheck)
    image = meal(3, *SIZE)
    (right,) = labelling.predict([image], 1)
    with Client(world.endpoint.url) as client:
        plain = client.segment(png(image))
        answer = client.segment(png(image), recheck=True)
    assert plain.rechecked is None and answer.rechecked and right.rechecked
    np.testing.assert_array_equal(label_map(answer), right.ids)
    assert (label_map(plain) != right.ids).any()
    assert [(each.before, each.name, each.pixels) for each in answer.rechecked] == [
        (each.before, each.after, each.pixels) for each in right.rechecked
    ]


def test_a_large_image_is_measured_at_its_own_size(world: World) -> None:
    large = cv2.resize(meal(3, *SIZE), (2048, 1536))
    ids = np.zeros(large.shape[:2], np.uint8)
    ids[301:802, 101:400] = 3
    sent = {"image": ("a.png", png(large)), "masks": ("m.png", encode_mask(ids))}
    answer = httpx.post(f"{world.endpoint.url}v1/classify-regions", files=sent, timeout=60).json()
    (region,) = answer["regions"]
    assert (region["pixels"], region["box"]) == (501 * 299, [101, 301, 299, 501])
