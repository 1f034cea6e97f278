"""The routes over plain fakes: which backend each calls, and what it answers; no Ray is started."""

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from foodseg.config.serve import ServeConfig, parse_serve_config
from foodseg.data.image_io import decode_mask
from foodseg.serve.embedding_cache import image_digest
from foodseg.serve.http.api import make_api
from foodseg.serve.http.masks import from_rle
from foodseg.serve.http.schema import Rle
from foodseg.serve.protocols import Backends, ImageExpired, Labelled, ModelState, SamMask, SecondLook
from tests.support.tiny_checkpoints import meal, png

CLASSES = ("background", "rice", "egg", "tofu")
HEIGHT, WIDTH = 60, 80
SHA = "ab" * 32


def ids_of(height: int, width: int) -> np.ndarray:
    """The upper quarter is rice, the quarter below it egg."""
    ids = np.zeros((height, width), np.uint8)
    ids[: height // 4], ids[height // 4 : height // 2] = 1, 2
    return ids


class Segmenter:
    def __init__(self, conditioned: bool = False, open_vocabulary: bool = False) -> None:
        self.conditioned, self.open_vocabulary = conditioned, open_vocabulary
        self.named: list[tuple[str, list[str], int, str]] = []
        self.asked: list[tuple[tuple[int, ...], str, tuple[int, ...] | None]] = []
        self.masks: list[int] = []

    async def segment(
        self,
        image: np.ndarray,
        model: str,
        ingredients: tuple[int, ...] | None,
        masks: Sequence[np.ndarray] = (),
        second_look: SecondLook | None = None,
    ) -> Labelled:
        if masks:
            self.masks.append(len(masks))
        self.asked.append((image.shape, model, ingredients))
        return Labelled(ids_of(*image.shape[:2]), None, {0: 0.9, 1: 0.75, 2: 0.5}, "meals", SHA)

    async def label_names(
        self, image: np.ndarray, model: str, names: Sequence[str], masks: Sequence[np.ndarray], refine: str
    ) -> Labelled:
        self.named.append((model, list(names), len(masks), refine))
        return Labelled(ids_of(*image.shape[:2]), None, {0: 0.9, 1: 0.75, 2: 0.5}, "open", SHA)

    async def models(self) -> list[ModelState]:
        bad = ModelState("bad", "runs/b", None, None, "the checkpoint runs/b is torn", (), False)
        named = ModelState("open", "runs/o", "runs/o", SHA, None, CLASSES, False, open_vocabulary=True)
        every = [ModelState("meals", "runs/a", "runs/a", SHA, None, CLASSES, True, self.conditioned), bad]
        return [*every, named] if self.open_vocabulary else every


class Sam:
    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.asked: list[tuple[list[tuple[float, float, int]], Any]] = []

    async def embed(self, image: np.ndarray) -> str:
        digest = image_digest(image)
        self.kept.add(digest)
        return digest

    async def prompt(self, digest: str, points: Sequence[tuple[float, float, int]], box: Any) -> list[SamMask]:
        if digest not in self.kept:
            raise ImageExpired(digest)
        self.asked.append((list(points), box))
        return [SamMask(ids_of(HEIGHT, WIDTH) == 1, 0.9), SamMask(ids_of(HEIGHT, WIDTH) > 0, 0.8)]

    async def masks(self, image: np.ndarray, seconds: float) -> list[SamMask]:
        return [SamMask(ids_of(*image.shape[:2]) == 1, 0.9)]


class Clip:
    def __init__(self, has_patches: bool = True) -> None:
        self.has_patches = has_patches
        self.labelled: list[tuple[list[str], int, str]] = []

    async def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        return [0.25, 0.75]

    async def mask_scores(
        self, image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str]
    ) -> list[list[float]]:
        return [[0.9, 0.1] for _ in masks]

    async def label(
        self, image: np.ndarray, names: Sequence[str], masks: Sequence[np.ndarray], refine: str
    ) -> Labelled | None:
        if not self.has_patches:
            return None
        self.labelled.append((list(names), len(masks), refine))
        return Labelled(ids_of(*image.shape[:2]), None, {0: 0.9, 1: 0.75, 2: 0.5}, "clip", "")


class Refine:
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    async def vote(self, image: np.ndarray, labelled: Labelled, names: Sequence[str]) -> Labelled:
        assert tuple(names) == CLASSES
        await asyncio.sleep(self.seconds)
        return replace(labelled, ids=np.full_like(labelled.ids, 3), confidences={3: 1.0})


class Server:
    """One application; each call is one request."""

    def __init__(self, backends: Backends, config: ServeConfig | None = None, secret: bytes = b"s") -> None:
        self.app = make_api(config or ServeConfig(), backends, secret=secret, keys=None)

    def get(self, path: str) -> httpx.Response:
        return self._ask("GET", path)

    def post(self, path: str, image: bytes | None = None, **fields: str) -> httpx.Response:
        files = {} if image is None else {"image": ("meal.png", image)}
        return self._ask("POST", path, data=fields, files=files)

    def _ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **request)

        return asyncio.run(ask())


def code(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"code", "message", "hint"}
    return response.status_code, error["code"]


@pytest.fixture(scope="module")
def sample_image() -> bytes:
    return png(meal(3, HEIGHT, WIDTH))


def test_segment_names_measures_and_masks(sample_image: bytes) -> None:
    segmenter = Segmenter()
    answer = Server(Backends(segmenter)).post("/v1/segment", sample_image).json()
    assert segmenter.asked == [((HEIGHT, WIDTH, 3), "meals@abababababab", None)]
    assert answer["image"] == {"width": WIDTH, "height": HEIGHT, "id": None}
    assert answer["model"] == {"name": "meals", "sha": SHA}
    rice, egg = answer["ingredients"]
    assert (rice["name"], rice["pixels"], rice["share_of_food"], rice["share_of_image"]) == ("rice", 1200, 0.5, 0.25)
    assert (rice["confidence"], egg["confidence"]) == (0.75, 0.5)
    np.testing.assert_array_equal(from_rle(Rle(**egg["mask"])), ids_of(HEIGHT, WIDTH) == 2)
    assert (answer["label_map"], answer["refined"]) == (None, False)


def test_segment_as_png_and_polygons_and_with_a_scale(sample_image: bytes) -> None:
    server = Server(Backends(Segmenter()))
    answer = server.post("/v1/segment", sample_image, format="png", pixels_per_cm="10").json()
    np.testing.assert_array_equal(decode_mask(base64.b64decode(answer["label_map"])), ids_of(HEIGHT, WIDTH))
    assert [one["mask"] for one in answer["ingredients"]] == [None, None]
    assert [one["cm2"] for one in answer["ingredients"]] == [12.0, 12.0]
    (ring,) = server.post("/v1/segment", sample_image, format="polygons").json()["ingredients"][0]["mask"]
    assert len(ring) >= 8


def test_a_large_image_is_decoded_small_and_answered_at_its_own_size() -> None:
    segmenter, large = Segmenter(), png(meal(1, 300, 400))
    config = parse_serve_config({"image": {"longest_side": 100}})
    answer = Server(Backends(segmenter), config).post("/v1/segment", large).json()
    assert segmenter.asked[0][0] == (75, 100, 3)
    assert answer["ingredients"][0]["mask"]["size"] == [300, 400]


def test_ingredients_reach_a_model_that_takes_them(sample_image: bytes) -> None:
    segmenter = Segmenter(conditioned=True)
    server = Server(Backends(segmenter))
    assert server.post("/v1/segment", sample_image, ingredients="egg, Rice").status_code == 200
    assert segmenter.asked[0][2] == (1, 2)
    assert code(server.post("/v1/segment", sample_image, ingredients="stone")) == (422, "unknown_ingredient")
    other = Server(Backends(Segmenter()))
    assert code(other.post("/v1/segment", sample_image, ingredients="egg")) == (422, "ingredients_unsupported")


def test_refine_and_its_own_deadline(sample_image: bytes) -> None:
    answer = (
        Server(Backends(Segmenter(), Sam(), refine=Refine())).post("/v1/segment", sample_image, refine="sam").json()
    )
    assert ([one["name"] for one in answer["ingredients"]], answer["refined"]) == (["tofu"], True)
    config = parse_serve_config({"refine": {"seconds": 0.05}})
    slow = Server(Backends(Segmenter(), Sam(), refine=Refine(5.0)), config)
    answer = slow.post("/v1/segment", sample_image, refine="sam").json()
    assert ([one["name"] for one in answer["ingredients"]], answer["refined"]) == (["rice", "egg"], False)


def test_vote_is_the_name_of_sam_and_soft_sends_the_masks_to_the_segmenter(sample_image: bytes) -> None:
    segmenter = Segmenter()
    server = Server(Backends(segmenter, Sam(), refine=Refine()))
    assert server.post("/v1/segment", sample_image, refine="vote").json()["ingredients"][0]["name"] == "tofu"
    assert segmenter.masks == []
    answer = server.post("/v1/segment", sample_image, refine="soft").json()
    assert ([one["name"] for one in answer["ingredients"]], answer["refined"]) == (["rice", "egg"], True)
    assert segmenter.masks == [1]
    assert code(server.post("/v1/segment", sample_image, refine="maybe")) == (422, "invalid_request")
    without = Server(Backends(Segmenter()))
    assert code(without.post("/v1/segment", sample_image, refine="soft")) == (503, "sam_not_configured")


def test_what_is_not_configured_says_how_to_add_it(sample_image: bytes) -> None:
    server = Server(Backends(Segmenter()))
    assert code(server.post("/v1/segment", sample_image, refine="sam")) == (503, "sam_not_configured")
    assert code(server.post("/v1/prompt", sample_image, points="[[1, 1, 1]]")) == (503, "sam_not_configured")
    assert code(server.post("/v1/zero-shot", sample_image, names="a,b")) == (503, "clip_not_configured")
    only_clip = Server(Backends(Segmenter(), clip=Clip()))
    assert code(only_clip.post("/v1/zero-shot", sample_image, names="a,b", masks="true")) == (503, "sam_not_configured")
    assert [server.get("/v1/models").json()[name] for name in ("sam", "clip")] == [False, False]
    assert [only_clip.get("/v1/models").json()[name] for name in ("sam", "clip")] == [False, True]


def test_a_prompt_by_image_then_by_id(sample_image: bytes) -> None:
    sam = Sam()
    server = Server(Backends(Segmenter(), sam))
    first = server.post("/v1/prompt", sample_image, points="[[8, 6, 1]]").json()
    assert sam.asked == [([(8.0, 6.0, 1)], None)]
    assert [mask["pixels"] for mask in first["masks"]] == [1200, 2400]
    public = first["image"]["id"]
    second = server.post("/v1/prompt", image_id=public, box="[0, 0, 40, 30]")
    assert second.json()["masks"] == first["masks"]
    assert sam.asked[1] == ([], (0.0, 0.0, 40.0, 30.0))
    # the id of /v1/segment is the same one, but stands for an image that nobody has embedded yet
    assert server.post("/v1/segment", sample_image).json()["image"]["id"] == public
    sam.kept.clear()
    assert code(server.post("/v1/prompt", image_id=public, points="[[8, 6, 1]]")) == (404, "image_expired")


class Forgetful(Sam):
    """Several replicas: a prompt reaches another one than has embedded the image."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    async def embed(self, image: np.ndarray) -> str:
        digest = await super().embed(image)
        if self.times > 0:
            self.times -= 1
            self.kept.clear()
        return digest


def test_an_image_that_was_sent_is_embedded_again_where_its_replica_is_lost(sample_image: bytes) -> None:
    server = Server(Backends(Segmenter(), Forgetful(2)))
    assert len(server.post("/v1/prompt", sample_image, points="[[8, 6, 1]]").json()["masks"]) == 2
    lost = Server(Backends(Segmenter(), Forgetful(3)))
    assert code(lost.post("/v1/prompt", sample_image, points="[[8, 6, 1]]")) == (404, "image_expired")


def test_an_id_of_another_server_or_none_at_all(sample_image: bytes) -> None:
    sam = Sam()
    public = (
        Server(Backends(Segmenter(), sam)).post("/v1/prompt", sample_image, points="[[1, 1, 1]]").json()["image"]["id"]
    )
    other = Server(Backends(Segmenter(), sam), secret=b"other")
    assert code(other.post("/v1/prompt", image_id=public, points="[[1, 1, 1]]")) == (404, "image_expired")
    assert code(other.post("/v1/prompt", image_id="x", points="[[1, 1, 1]]")) == (404, "image_expired")
    assert code(other.post("/v1/prompt", points="[[1, 1, 1]]")) == (422, "no_image")
    assert code(other.post("/v1/prompt", sample_image)) == (422, "no_prompt")
    assert code(other.post("/v1/prompt", sample_image, points="[[80, 1, 1]]")) == (422, "point_outside")


def test_zero_shot_of_the_image_and_its_regions(sample_image: bytes) -> None:
    server = Server(Backends(Segmenter(), Sam(), Clip()))
    answer = server.post("/v1/zero-shot", sample_image, names="rice, egg").json()
    assert answer["scores"] == [{"name": "egg", "score": 0.75}, {"name": "rice", "score": 0.25}]
    assert answer["masks"] is None
    (region,) = server.post("/v1/zero-shot", sample_image, names='["rice", "egg"]', masks="true").json()["masks"]
    assert (region["pixels"], region["scores"][0]) == (1200, {"name": "rice", "score": 0.9})
    assert code(server.post("/v1/zero-shot", sample_image, names=" ")) == (422, "no_names")


def test_zero_shot_label_map(sample_image: bytes) -> None:
    clip = Clip()
    server = Server(Backends(Segmenter(), Sam(), clip))
    answer = server.post("/v1/zero-shot", sample_image, names="rice|steamed rice, egg", format="png").json()
    rice, egg = answer["ingredients"]
    assert (rice["name"], rice["id"], rice["pixels"]) == ("rice", 1, 1200) and egg["confidence"] == 0.5
    assert decode_mask(base64.b64decode(answer["label_map"])).tolist() == ids_of(HEIGHT, WIDTH).tolist()
    assert answer["scores"][1]["name"] == "rice" and answer["refined"] is False
    assert clip.labelled == [(["rice|steamed rice", "egg"], 0, "none")]
    # the old name of `vote` too
    for refine, how in (("vote", "vote"), ("soft", "soft"), ("sam", "vote")):
        assert server.post("/v1/zero-shot", sample_image, names="rice,egg", refine=refine).json()["refined"]
        assert clip.labelled[-1] == (["rice", "egg"], 1, how)
    asked = len(clip.labelled)
    answer = server.post("/v1/zero-shot", sample_image, names="rice,egg", dense="false", refine="vote").json()
    assert answer["ingredients"] is None and not answer["refined"] and len(clip.labelled) == asked
    answer = Server(Backends(Segmenter(), None, Clip(has_patches=False))).post(
        "/v1/zero-shot", sample_image, names="rice,egg"
    )
    assert answer.json()["ingredients"] is None and len(answer.json()["scores"]) == 2


def test_an_open_vocabulary_model_makes_the_label_map_of_any_names(sample_image: bytes) -> None:
    segmenter = Segmenter(open_vocabulary=True)
    server = Server(Backends(segmenter, Sam()))
    asked = {"names": "kimchi|gimchi, egg", "model": "open"}
    answer = server.post("/v1/zero-shot", sample_image, **asked).json()
    assert [each["name"] for each in answer["ingredients"]] == ["kimchi", "egg"] and answer["scores"] == []
    assert segmenter.named == [(f"open@{SHA[:12]}", ["kimchi|gimchi", "egg"], 0, "none")]
    assert server.post("/v1/zero-shot", sample_image, **asked, refine="vote").json()["refined"]
    assert segmenter.named[-1][2:] == (1, "vote")
    assert code(server.post("/v1/zero-shot", sample_image, **asked, masks="true")) == (503, "clip_not_configured")
    assert code(server.post("/v1/zero-shot", sample_image, names="egg", model="meals")) == (422, "not_open_vocabulary")
    assert code(server.post("/v1/zero-shot", sample_image, names="egg", model="none")) == (422, "unknown_model")
    assert code(server.post("/v1/zero-shot", sample_image, names="egg")) == (503, "clip_not_configured")
    with_clip = Server(Backends(segmenter, None, Clip()))
    assert len(with_clip.post("/v1/zero-shot", sample_image, **asked).json()["scores"]) == 2
    said = [each["open_vocabulary"] for each in server.get("/v1/models").json()["models"]]
    assert said == [False, False, True]


@pytest.mark.parametrize(
    "names",
    [
        "rice,Rice", "rice,background", "|", '["rice", "|"]', "rice\a,egg", "rice,\u202eegg", '["\\ud800"]',
        "n" * 10_240,
        ",".join(f"name {index}" for index in range(10_000)), json.dumps(["n" * 10_240] * 2), '["rice", 3]', "[" * 9000,
    ],
    ids=lambda names: names[:12],
)  # fmt: skip
def test_names_that_make_no_label_space_are_refused(names: str, sample_image: bytes) -> None:
    status, found = code(Server(Backends(Segmenter(), None, Clip())).post("/v1/zero-shot", sample_image, names=names))
    assert (status, found) in ((422, "bad_names"), (422, "no_names"), (422, "field_too_long"))


def test_models_classes_and_health() -> None:
    server = Server(Backends(Segmenter()))
    good, bad = server.get("/v1/models").json()["models"]
    assert (good["serving"], good["classes"], good["error"]) == ("runs/a", 4, None)
    assert (bad["serving"], bad["sha"], bad["error"]) == (None, None, "the checkpoint runs/b is torn")
    assert [one["name"] for one in server.get("/v1/classes").json()["classes"]] == list(CLASSES)
    assert code(server.get("/v1/classes?model=bad")) == (503, "model_unavailable")
    assert code(server.get("/v1/classes?model=none")) == (422, "unknown_model")
    assert server.get("/healthz").status_code == server.get("/readyz").status_code == 200
    assert "text/html" in server.get("/").headers["content-type"]
    assert code(server.get("/page/none.js")) == (404, "not_found")


def test_the_errors_of_forms_are_error_responses(sample_image: bytes) -> None:
    server = Server(Backends(Segmenter()))
    assert server.post("/v1/segment", sample_image, format="gif").status_code == 422
    assert server.post("/v1/segment", sample_image, pixels_per_cm="nan").status_code == 422
    assert server.post("/v1/segment", sample_image, pixels_per_cm="0").status_code == 422
    assert server.post("/v1/segment").status_code == 422
    assert server.get("/v1/segment").status_code == 405
    for response in (server.post("/v1/segment", sample_image, format="gif"), server.get("/v1/segment")):
        assert set(response.json()["error"]) == {"code", "message", "hint"}
    jpeg = cv2.imencode(".jpg", meal(1, 40, 40))[1].tobytes()
    assert code(server.post("/v1/segment", jpeg[:100])) == (422, "damaged_image")


def test_the_openapi_document_names_every_route() -> None:
    document = json.loads(Server(Backends(Segmenter())).get("/openapi.json").text)
    assert set(document["paths"]) == {
        "/v1/segment", "/v1/prompt", "/v1/zero-shot", "/v1/classify-regions", "/v1/classes", "/v1/models",
        "/healthz", "/readyz",
    }  # fmt: skip
    answers = document["paths"]["/v1/segment"]["post"]["responses"]
    assert answers["200"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/SegmentAnswer"}
    assert answers["429"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ErrorAnswer"}


class Nobody(Segmenter):
    """No model is configured, or the default one is gone."""

    def __init__(self, *states: ModelState) -> None:
        super().__init__()
        self._states = list(states)

    async def models(self) -> list[ModelState]:
        return self._states


def test_an_endpoint_without_a_model_says_how_to_get_one(sample_image: bytes) -> None:
    server = Server(Backends(Nobody()))
    for response in (server.get("/readyz"), server.post("/v1/segment", sample_image)):
        assert code(response) == (503, "no_model")
        hint = response.json()["error"]["hint"]
        assert "foodseg train" in hint and "foodseg serve swap meals" in hint
    assert server.get("/healthz").status_code == server.get("/").status_code == 200
    assert server.get("/v1/models").json()["models"] == []
    assert Server(Backends(Nobody(), Sam())).get("/readyz").status_code == 200  # clicks need no model


def test_a_model_that_is_gone_is_a_state_with_its_error(sample_image: bytes) -> None:
    why = "runs/a/checkpoints/step-1 is neither a checkpoint nor a run with one"
    server = Server(Backends(Nobody(ModelState("meals", "runs/a", None, None, why, (), True))))
    for path in ("/readyz", "/v1/classes"):
        response = server.get(path)
        assert response.status_code == 503 and why in response.json()["error"]["message"]
    assert code(server.post("/v1/segment", sample_image)) == (503, "model_unavailable")


def test_a_server_that_stops_answers_requests_in_flight_and_refuses_new_ones(sample_image: bytes) -> None:
    class Slow(Segmenter):
        async def segment(
            self,
            image: np.ndarray,
            model: str,
            ingredients: tuple[int, ...] | None,
            masks: Sequence[np.ndarray] = (),
            second_look: SecondLook | None = None,
        ) -> Labelled:
            await asyncio.sleep(0.3)
            return await super().segment(image, model, ingredients, masks)

    server = Server(Backends(Slow()))

    async def run() -> tuple[int, int, httpx.Response, httpx.Response, float]:
        transport = httpx.ASGITransport(app=server.app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            first = asyncio.create_task(client.post("/v1/segment", files={"image": ("a", sample_image)}))
            await asyncio.sleep(0.1)
            impatient = await server.app.drain(0.01)
            late = await client.post("/v1/segment", files={"image": ("a", sample_image)})
            left = await server.app.drain(20)
            began = asyncio.get_running_loop().time()
            await server.app.drain(20)
            return impatient, left, await first, late, asyncio.get_running_loop().time() - began

    impatient, left, first, late, idle = asyncio.run(run())
    assert (impatient, left, first.status_code) == (1, 0, 200)
    assert code(late) == (503, "stopping") and "retry-after" in late.headers
    assert idle < 0.2
