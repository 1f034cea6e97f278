"""Serve's local testing mode: ingress, codec and middleware with plain classes behind handles, without a cluster."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from ray import serve

from foodseg.config.serve import parse_serve_config
from foodseg.serve.http.schema import ApiError
from foodseg.serve.packing import PackedLabels, pack_labels
from foodseg.serve.protocols import Labelled, ModelState
from foodseg.serve.ray_app import Ingress
from tests.support.tiny_checkpoints import meal, png

SHA = "ab" * 32


@serve.deployment
class PlainSegmenter:
    async def segment(
        self, image: np.ndarray, size: tuple[int, int], ingredients: Any, masks: Any, second_look: Any
    ) -> PackedLabels:
        if size[0] == 33:
            raise ApiError(429, "too_many_requests", "the queue is full", "try again", 2.0)
        ids = np.zeros(size, np.uint8)
        ids[:10] = 1
        return pack_labels(Labelled(ids, None, {0: 0.5, 1: 0.75}, "meals", SHA))

    async def models(self) -> list[ModelState]:
        return [ModelState("meals", "runs/a", "runs/a", SHA, None, ("background", "rice"), True, longest_side=40)]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    config = parse_serve_config({"http": {"max_body_bytes": 100_000}})
    # the ingress logs as JSON, and here it is in this process
    monkeypatch.setattr("foodseg.serve.ray_app.log_json_to_stderr", lambda: None)
    bound = Ingress.bind(config, b"secret", PlainSegmenter.bind())  # type: ignore[attr-defined]
    handle = serve.run(bound, name="local", _local_testing_mode=True)
    handle._init()
    # a handle can only call methods of the ingress; its HTTP answers come from its ASGI application
    yield handle._router._user_callable_wrapper._callable.app


def ask(app: Any, path: str, **request: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request("POST" if request else "GET", path, **request)

    return asyncio.run(go())


def test_an_image_goes_in_and_ingredients_come_out(app: Any) -> None:
    response = ask(app, "/v1/segment", files={"image": ("meal.png", png(meal(1, 60, 80)))})
    (rice,) = response.json()["ingredients"]
    assert (rice["name"], rice["pixels"], rice["confidence"]) == ("rice", 800, 0.75)


def test_errors_of_guard_codec_and_deployments_have_one_form(app: Any) -> None:
    for request, status, code in [
        ({"content": b"x" * 200_000}, 413, "body_too_large"),
        ({"files": {"image": ("a", b"GIF89a")}}, 415, "unsupported_format"),
        ({"files": {"image": ("a", png(meal(1, 33, 40)))}}, 429, "too_many_requests"),
    ]:
        response = ask(app, "/v1/segment", **request)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert response.headers["retry-after"] == "2"
