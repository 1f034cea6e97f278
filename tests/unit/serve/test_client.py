"""The client against answers worked out by hand: its requests, and its retries and errors."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from foodseg.errors import MissingFile, RetryLater
from foodseg.serve import client as client_module
from foodseg.serve.client import Client, label_map
from foodseg.serve.http.codec import segment_answer
from foodseg.serve.http.schema import ApiError, ImageInfo, MaskFormat, PromptAnswer, SegmentAnswer
from foodseg.serve.protocols import Labelled

IDS = np.array([[0, 1, 1], [2, 2, 0]], np.uint8)


def _answer(format: MaskFormat = "rle", image_id: str | None = "id-1") -> SegmentAnswer:
    labelled = Labelled(IDS, None, {1: 0.5, 2: 0.75}, "meals", "ab" * 32)
    names = ("background", "rice", "egg")
    return segment_answer(labelled, names, (2, 3), format, request_id="r", image_id=image_id)


def _ok(image_id: str | None = "id-1") -> httpx.Response:
    return httpx.Response(200, text=_answer(image_id=image_id).model_dump_json())


def _prompted(image_id: str = "id-2") -> httpx.Response:
    info = ImageInfo(width=3, height=2, id=image_id)
    return httpx.Response(200, text=PromptAnswer(request_id="r", image=info, masks=[]).model_dump_json())


def _refused(status: int, code: str, retry_after: str | None = None) -> httpx.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return httpx.Response(status, json=ApiError(status, code, "a sentence", "a hint").body(), headers=headers)


class Server:
    """Answers in the given order and notes what it was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def client(self, key: str | None = None, retry_seconds: float = 60.0) -> Client:
        return Client("http://food", key, retry_seconds=retry_seconds, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def sent(self, index: int) -> str:
        return self.requests[index].content.decode("latin-1")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the client slept, without sleeping; time passes as it would."""
    found: list[float] = []

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return sum(found)

        sleep = staticmethod(found.append)

    monkeypatch.setattr(client_module, "time", Clock)
    monkeypatch.setattr(client_module.random, "uniform", lambda low, high: low)
    return found


def test_what_is_sent() -> None:
    server = Server(_ok())
    answer = server.client("my-key").segment(
        b"\xff\xd8picture", model="meals", ingredients=["soup, clear", "egg"], refine="sam", pixels_per_cm=12.5
    )
    assert [i.name for i in answer.ingredients] == ["rice", "egg"]
    (request,) = server.requests
    assert (request.method, request.url.path) == ("POST", "/v1/segment")
    assert request.headers["authorization"] == "Bearer my-key"
    assert request.headers["content-type"].startswith("multipart/form-data")
    sent = server.sent(0)
    for name, value in [
        ("model", "meals"), ("ingredients", json.dumps(["soup, clear", "egg"])), ("refine", "sam"), ("format", "rle"),
        ("pixels_per_cm", "12.5"),
    ]:  # fmt: skip
        assert f'name="{name}"\r\n\r\n{value}\r\n' in sent
    assert 'name="image"; filename="image"' in sent and "\xff\xd8picture" in sent


@pytest.mark.parametrize("masks", [[[[0, 0, 3, 0, 3, 2]]], b"[[[0, 0, 3, 0, 3, 2]]]"], ids=["list", "content"])
def test_masks_are_sent_as_a_file(masks: bytes | list[object]) -> None:
    found = {"number": 0, "id": 1, "name": "rice", "score": 0.5, "second": "egg", "second_score": 0.25, "pixels": 6,
             "share_of_image": 1.0, "box": [0, 0, 3, 2]}  # fmt: skip
    image, model = {"width": 3, "height": 2, "id": None}, {"name": "regions", "sha": ""}
    answer = {"request_id": "r", "image": image, "model": model,
              "regions": [found]}  # fmt: skip
    server = Server(httpx.Response(200, json=answer), _ok())
    client = server.client()
    assert client.classify_regions(b"image", masks).regions[0].name == "rice"
    assert server.requests[0].url.path == "/v1/classify-regions"
    assert 'name="masks"; filename="masks"' in server.sent(0) and "[[[0, 0, 3, 0, 3, 2]]]" in server.sent(0)
    client.segment(b"image", recheck=True)
    assert 'name="recheck"\r\n\r\ntrue' in server.sent(1)


def test_fields_that_are_not_set_are_not_sent(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"from a file")
    server = Server(_ok())
    server.client().segment(tmp_path / "a.jpg")
    assert "from a file" in server.sent(0)
    assert (
        "ingredients" not in server.sent(0)
        and "recheck" not in server.sent(0)
        and "authorization" not in server.requests[0].headers
    )


def test_a_missing_image() -> None:
    with pytest.raises(MissingFile):
        Server().client().segment("no/such.jpg")


def test_429_and_503_are_retried_after_the_time_that_the_server_names(pauses: list[float]) -> None:
    server = Server(_refused(429, "too_many_requests", "2"), _refused(503, "starting", "3"), _ok())
    assert server.client().segment(b"x").model.name == "meals"
    assert pauses == [2.0, 3.0]
    assert len(server.requests) == 3


def test_retries_end_after_retry_seconds(pauses: list[float]) -> None:
    server = Server(*[_refused(429, "too_many_requests", "4") for _ in range(9)])
    with pytest.raises(ApiError) as caught:
        server.client(retry_seconds=10).segment(b"x")
    assert (caught.value.status, caught.value.retry_after, pauses) == (429, 4.0, [4.0, 4.0])


@pytest.mark.parametrize(
    "refusal",
    [_refused(503, "sam_not_configured"), _refused(422, "damaged_image"), _refused(401, "wrong_key"),
     _refused(500, "internal"), _refused(408, "request_timeout", "1")],
    ids=lambda response: response.status_code,
)  # fmt: skip
def test_others_are_raised_at_once(refusal: httpx.Response, pauses: list[float]) -> None:
    with pytest.raises(ApiError) as caught:
        Server(refusal).client().segment(b"x")
    assert (caught.value.status, str(caught.value), caught.value.hint) == (refusal.status_code, "a sentence", "a hint")
    assert pauses == []


@pytest.mark.parametrize("body", [b"upstream is away", b"[]", b'{"error": "x"}', b"\xff"])
def test_an_error_of_a_proxy_in_between(body: bytes) -> None:
    with pytest.raises(ApiError, match="the answer is HTTP 502") as caught:
        Server(httpx.Response(502, content=body)).client().models()
    assert caught.value.code == "http_502"


@pytest.mark.parametrize(
    "error", [httpx.ConnectError("refused"), httpx.ReadTimeout(""), httpx.RemoteProtocolError("x")]
)
def test_a_server_that_cannot_be_reached(error: Exception) -> None:
    with pytest.raises(RetryLater, match="http://food did not answer"):
        Server(error).client().models()


def test_an_image_is_sent_to_sam_once() -> None:
    server = Server(_ok("id-1"), _prompted("id-2"), _prompted("id-2"), _prompted("id-3"))
    client = server.client()
    client.segment(b"one")
    client.prompt(b"one", points=[(1, 2, 1)])
    client.prompt(b"one", box=(0, 1, 2, 3))
    client.prompt(b"two", points=[(0.5, 0, 0)])
    assert 'name="image_id"\r\n\r\nid-1\r\n' in server.sent(1)
    assert 'name="image_id"\r\n\r\nid-2\r\n' in server.sent(2)
    assert 'name="image"' not in server.sent(1) + server.sent(2)
    assert 'name="points"\r\n\r\n[[1, 2, 1]]\r\n' in server.sent(1)
    assert 'name="box"\r\n\r\n[0, 1, 2, 3]\r\n' in server.sent(2)
    assert 'name="image"' in server.sent(3) and "image_id" not in server.sent(3)


def test_a_forgotten_image_is_sent_again() -> None:
    server = Server(_ok("old"), _refused(404, "image_expired"), _prompted("new"), _prompted("new"))
    client = server.client()
    client.segment(b"one")
    assert client.prompt(b"one", points=[(1, 2, 1)]).image.id == "new"
    client.prompt(b"one", points=[(1, 2, 1)])
    assert 'name="image"' in server.sent(2)
    assert 'name="image_id"\r\n\r\nnew\r\n' in server.sent(3)


def test_another_404_is_raised() -> None:
    server = Server(_ok("old"), _refused(404, "not_found"))
    client = server.client()
    client.segment(b"one")
    with pytest.raises(ApiError, match="a sentence"):
        client.prompt(b"one", points=[(1, 2, 1)])


@pytest.mark.parametrize("format", ["rle", "png"])
def test_label_maps(format: MaskFormat) -> None:
    assert label_map(_answer(format)).tolist() == IDS.tolist()


def test_polygons_give_no_label_map() -> None:
    with pytest.raises(ValueError, match="holds polygons"):
        label_map(_answer("polygons"))


@pytest.mark.parametrize("call", [lambda c: c.classes("a"), lambda c: c.models(), lambda c: c.zero_shot(b"x", ["a"])])
def test_an_answer_that_lacks_something_is_noticed(call: Callable[[Client], object]) -> None:
    with pytest.raises(ValueError, match="Field required"):
        call(Server(httpx.Response(200, json={"request_id": "r"})).client())


def test_a_newer_server_may_say_more() -> None:
    content = {**_answer().model_dump(mode="json"), "calories": 3}
    assert Server(httpx.Response(200, json=content)).client().segment(b"x").request_id == "r"
