"""Hundreds of broken, huge and odd requests to the whole HTTP application with fakes behind it: no 500, memory flat."""

import asyncio
import json

import psutil
import pytest

from foodseg.config.serve import ServeConfig, parse_serve_config
from foodseg.serve.http.api import make_api
from foodseg.serve.http.middleware import Guard
from foodseg.serve.protocols import Backends
from tests.support.asgi import Reply, ask
from tests.support.hostile_requests import (
    HONEST_503,
    STATUSES,
    HostileRequest,
    good_image,
    hostile_requests,
    multipart,
    random,
)
from tests.support.page_server import FakeClip, FakeRefine, FakeRegions, FakeSam, FakeSegmenter, KnownImages

NAMES = ("background", "rice", "egg")


def _api(complete: bool, config: ServeConfig) -> Guard:
    images = KnownImages(NAMES, [])
    segmenter = FakeSegmenter(images)
    rest = (FakeSam(images), FakeClip(), FakeRefine(), FakeRegions(images)) if complete else ()
    return make_api(config, Backends(segmenter, *rest), secret=b"secret", keys=None)


async def _send(app: Guard, request: HostileRequest) -> Reply:
    path, _, query = request.path.partition("?")
    asked = ask(app, request.method, path, request.body, request.headers, query=query)
    return await asyncio.wait_for(asked, 60)


def _check(request: HostileRequest, reply: Reply) -> None:
    where = (request.method, request.path[:60], request.headers, request.body[:300], reply.body[:300])
    assert reply.status in STATUSES, where
    assert reply.headers["x-request-id"], where
    if reply.status >= 400 and request.method != "HEAD":
        assert reply.code, where
        assert set(json.loads(reply.body)) == {"error"}, where
        if reply.status == 503:
            assert reply.code in HONEST_503, where


@pytest.mark.parametrize("complete", [True, False], ids=["with SAM and CLIP", "without"])
def test_no_request_breaks_the_server(complete: bool) -> None:
    # an image of nine megapixels by its header may still be decoded
    app = _api(complete, parse_serve_config({"image": {"max_pixels": 9_000_000}, "regions": {"model": "runs/roi"}}))
    process, statuses, before = psutil.Process(), set(), 0
    good = multipart([("image", "a.jpg", good_image(random.Random(1)))])
    friendly = HostileRequest("POST", "/v1/segment", {"Content-Type": "multipart/form-data; boundary=b0undary"}, good)

    async def run() -> None:
        nonlocal before
        for number, request in enumerate(hostile_requests(seed=int(complete), count=250)):
            reply = await _send(app, request)
            _check(request, reply)
            statuses.add(reply.status)
            if number == 100:  # libraries are loaded and pools have grown
                before = process.memory_info().rss
        assert (await _send(app, friendly)).status == 200

    asyncio.run(run())
    assert process.memory_info().rss - before < 40 << 20
    assert {200, 400, 404, 405, 415, 422} <= statuses


def test_requests_are_the_same_for_a_seed() -> None:
    assert list(hostile_requests(3, 20)) == list(hostile_requests(3, 20)) != list(hostile_requests(4, 20))
