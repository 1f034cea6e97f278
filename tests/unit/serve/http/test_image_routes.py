"""/v1/classify-regions and recheck=true over plain fakes: which backend is asked what of, and what is answered."""

import asyncio
import base64
import json
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from foodseg.config.serve import ServeConfig, parse_serve_config
from foodseg.data.image_io import encode_mask
from foodseg.data.regions import Region
from foodseg.serve.http.api import make_api
from foodseg.serve.http.schema import ApiError
from foodseg.serve.protocols import Backends, Labelled, RegionsCard
from tests.support.page_server import SHA, FakeRefine, FakeRegions, FakeSam, FakeSegmenter, KnownImages
from tests.support.tiny_checkpoints import meal, png

CLASSES = ("background", "rice", "egg", "tofu")
IMAGE = meal(1, 60, 80)
IDS = np.zeros((60, 80), np.uint8)
IDS[:30, :20], IDS[40:, 60:] = 1, 2
IMAGES = KnownImages(CLASSES, [(IMAGE, IDS)])
WITH_REGIONS = parse_serve_config({"regions": {"model": "runs/roi", "seconds": 0.5}})


class Regions(FakeRegions):
    """Says tofu, perhaps late or never; notes what it was asked."""

    def __init__(self, after: float = 0.0, error: Exception | None = None) -> None:
        super().__init__(IMAGES)
        self.after, self.error = after, error
        self.asked: list[tuple[tuple[int, ...], list[Region]]] = []

    async def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        self.asked.append((image.shape, list(regions)))
        await asyncio.sleep(self.after)
        if self.error is not None:
            raise self.error
        return await super().logits(image, regions)


def post(path: str, regions: Any, config: ServeConfig = WITH_REGIONS, masks: Any = None, **fields: str) -> Any:
    backends = Backends(FakeSegmenter(IMAGES), FakeSam(IMAGES), None, FakeRefine(), regions)
    app = make_api(config, backends, secret=b"s", keys=None)
    files = {"image": ("meal.png", png(IMAGE))}
    if masks is not None:
        files["masks"] = ("masks", masks)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            return await client.post(path, data=fields, files=files)

    response = asyncio.run(ask())
    answer = response.json()
    return answer if response.status_code == 200 else (response.status_code, answer["error"])


def test_regions_are_named_in_the_order_of_their_masks() -> None:
    regions = Regions()
    ids = np.zeros((60, 80), np.uint8)
    ids[10:20, 30:70], ids[50:, :] = 7, 2
    answer = post("/v1/classify-regions", regions, masks=encode_mask(ids))
    first, second = answer["regions"]
    assert (first["number"], first["pixels"], first["box"]) == (2, 800, [0, 50, 80, 10])
    assert (second["number"], second["pixels"], second["box"]) == (7, 400, [30, 10, 40, 10])
    assert second["share_of_image"] == pytest.approx(400 / 4800)
    softmax = np.exp(np.arange(4.0)) / np.exp(np.arange(4.0)).sum()
    assert (first["id"], first["name"], first["second"]) == (3, "tofu", "egg")
    assert first["score"] == pytest.approx(softmax[3]) and first["second_score"] == pytest.approx(softmax[2])
    assert answer["model"] == {"name": "regions", "sha": SHA}
    assert (answer["image"]["width"], answer["image"]["height"]) == (80, 60) and answer["image"]["id"]


@pytest.mark.parametrize("as_file", [True, False], ids=["file", "field"])
def test_masks_are_of_the_image_as_sent_and_the_model_sees_the_decoded_one(as_file: bool) -> None:
    regions = Regions()
    config = parse_serve_config({"regions": {"model": "runs/roi"}, "image": {"longest_side": 64}})
    square = json.dumps([[[40, 30, 60, 30, 60, 45, 40, 45]]])
    sent = {"masks": square.encode()} if as_file else {"data": None}
    if as_file:
        answer = post("/v1/classify-regions", regions, config, **sent)
    else:
        app = make_api(config, Backends(FakeSegmenter(IMAGES), regions=regions), secret=b"s", keys=None)

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
                files = {"image": ("meal.png", png(IMAGE))}
                return await client.post("/v1/classify-regions", data={"masks": square}, files=files)

        answer = asyncio.run(ask()).json()
    ((shape, (region,)),) = regions.asked
    assert shape == region.mask.shape + (3,) == (48, 64, 3)
    assert tuple(region.box) == (24, 32, 36, 48)
    (found,) = answer["regions"]
    assert (found["pixels"], found["box"]) == (300, [40, 30, 20, 15])


@pytest.mark.parametrize("as_png", [True, False], ids=["PNG as base64", "list"])
def test_masks_in_json(as_png: bool) -> None:
    square = [[[40, 30, 60, 30, 60, 45, 40, 45]]]
    masks = base64.b64encode(encode_mask(IDS)).decode() if as_png else square
    app = make_api(WITH_REGIONS, Backends(FakeSegmenter(IMAGES), regions=Regions()), secret=b"s", keys=None)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            sent = {"image": base64.b64encode(png(IMAGE)).decode(), "masks": masks}
            return await client.post("/v1/classify-regions", json=sent)

    pixels = [each["pixels"] for each in asyncio.run(ask()).json()["regions"]]
    assert pixels == ([600, 400] if as_png else [300])


def test_masks_that_were_sent_twice_are_refused() -> None:
    app = make_api(WITH_REGIONS, Backends(FakeSegmenter(IMAGES), regions=Regions()), secret=b"s", keys=None)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            files = [("image", png(IMAGE)), ("masks", encode_mask(IDS)), ("masks", encode_mask(IDS + 1))]
            return await client.post("/v1/classify-regions", files=files)

    assert asyncio.run(ask()).json()["error"]["code"] == "sent_twice"


def test_what_classify_regions_refuses() -> None:
    status, error = post("/v1/classify-regions", Regions(), masks=b"[]")
    assert (status, error["code"]) == (422, "bad_masks") and "-F masks=@masks.png" in error["hint"]
    status, error = post("/v1/classify-regions", Regions())
    assert (status, error["code"]) == (422, "invalid_request") and "masks" in error["message"]
    status, error = post("/v1/classify-regions", None, ServeConfig(), masks=b"[]")
    assert (status, error["code"]) == (503, "regions_not_configured") and "--set regions.model=" in error["hint"]
    busy = Regions(error=ApiError(429, "too_many_requests", "Regions has a full queue", "try again", 1.0))
    assert post("/v1/classify-regions", busy, masks=encode_mask(IDS))[0] == 429


def test_recheck_renames_what_is_doubtful_and_says_what_was_said_before() -> None:
    answer = post("/v1/segment", Regions(), recheck="true")
    (tofu,) = answer["ingredients"]
    assert (tofu["name"], tofu["pixels"]) == ("tofu", 1000)
    first, second = answer["rechecked"]
    assert (first["before"], first["name"], first["pixels"], first["box"]) == ("rice", "tofu", 600, [0, 0, 20, 30])
    assert (second["before"], second["before_id"], second["id"], second["box"]) == ("egg", 2, 3, [60, 40, 20, 20])
    score = (0.25 + float(np.exp(3) / np.exp(np.arange(4.0)).sum())) / 2
    assert first["score"] == pytest.approx(score, rel=1e-5) and tofu["confidence"] == pytest.approx(score, rel=1e-5)
    soft = post("/v1/segment", Regions(), recheck="true", refine="soft")
    assert soft["refined"] and [each["name"] for each in soft["rechecked"]] == ["tofu", "tofu"]


def test_without_recheck_nobody_is_asked() -> None:
    regions = Regions()
    answer = post("/v1/segment", regions)
    assert answer["rechecked"] is None and not regions.asked
    assert {each["name"] for each in answer["ingredients"]} == {"rice", "egg"}


@pytest.mark.parametrize(
    "regions", [Regions(after=30.0), Regions(error=ApiError(503, "backend_lost", "Regions was lost twice"))],
    ids=["late", "lost"],
)  # fmt: skip
def test_no_second_look_in_time_is_the_answer_without_and_says_so(regions: Regions) -> None:
    answer, plain = post("/v1/segment", regions, recheck="true"), post("/v1/segment", regions)
    assert answer["rechecked"] is None and answer["ingredients"] == plain["ingredients"]


def test_what_recheck_refuses() -> None:
    status, error = post("/v1/segment", None, ServeConfig(), recheck="true")
    assert (status, error["code"]) == (503, "regions_not_configured")
    other = Regions()
    other.card = RegionsCard("runs/roi", SHA, CLASSES[:3], 0.001, True)
    status, error = post("/v1/segment", other, recheck="true")
    assert (status, error["code"]) == (422, "recheck_other_classes")
    segmenter = Regions()
    segmenter.card = RegionsCard("runs/a", SHA, CLASSES, 0.001, False)
    status, error = post("/v1/segment", segmenter, recheck="true")
    assert (status, error["code"]) == (503, "recheck_not_configured")
    for vote in ("vote", "sam"):
        status, error = post("/v1/segment", Regions(), recheck="true", refine=vote)
        assert (status, error["code"]) == (422, "recheck_after_vote")
    assert not other.asked and not segmenter.asked


def test_the_segmenter_is_told_the_threshold_and_the_least_share() -> None:
    asked = []

    class Asked(FakeSegmenter):
        async def segment(self, *sent: Any) -> Labelled:
            asked.append(sent[-1])
            return await super().segment(*sent)

    config = parse_serve_config({"regions": {"model": "runs/roi", "below": 0.45}})
    app = make_api(config, Backends(Asked(IMAGES), regions=Regions()), secret=b"s", keys=None)

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            for recheck in ("true", "false"):
                sent = {"image": ("meal.png", png(IMAGE))}
                assert (await client.post("/v1/segment", data={"recheck": recheck}, files=sent)).status_code == 200
            found = (await client.get("/v1/models")).json()["regions"]
            assert found == {"serving": "runs/roi", "sha": SHA, "classes": 4, "recheck": True}

    asyncio.run(ask())
    first, second = asked
    assert (first.below, first.least_share) == (0.45, 0.001) and second is None
