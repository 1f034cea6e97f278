"""Errors that FastAPI raises, or that a route raises within it, as error responses."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Form
from starlette.exceptions import HTTPException

from foodseg.config.serve import HttpConfig
from foodseg.serve.http.error_response import HANDLERS
from foodseg.serve.http.middleware import Exchange, Guard
from foodseg.serve.http.schema import ApiError
from tests.support.asgi import Reply, ask

USAGE = "for example: curl -F image=@lunch.jpg http://127.0.0.1:8000/v1/segment"


def _ask(route: Callable[..., Any], body: bytes = b"", method: str = "POST", path: str = "/v1/segment") -> Reply:
    seen: list[Exchange] = []
    api = FastAPI(exception_handlers=HANDLERS)
    api.add_api_route("/v1/segment", route, methods=["POST"])
    guard = Guard(api, HttpConfig(), None, seen.append)
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    reply: Reply = asyncio.run(ask(guard, method, path, body, headers))
    assert len(reply.messages) == 2 and seen[0].code == reply.code and reply.headers["x-request-id"]
    return reply


def _raising(error: BaseException) -> Callable[[], Any]:
    async def route() -> None:
        raise error

    return route


@pytest.mark.parametrize(
    ("error", "status", "code", "message"),
    [
        (ApiError(404, "image_expired", "gone"), 404, "image_expired", "gone"),
        (ApiError(422, "bad_box", "half of a pair: \ud800"), 422, "bad_box", "half of a pair: \ud800"),
        (ApiError(500, "odd", "told"), 500, "odd", "told"),
        (MemoryError(), 503, "out_of_memory", "the server is short of memory"),
        (ValueError("secret"), 500, "internal", "something went wrong on our side"),
        (HTTPException(400, "There was an error parsing the body"), 400, "bad_request",
         "There was an error parsing the body"),
        (HTTPException(413, "x" * 600), 413, None, "x" * 500),
    ],
)  # fmt: skip
def test_what_a_route_raises(error: Exception, status: int, code: str | None, message: str) -> None:
    reply = _ask(_raising(error))
    assert (reply.status, reply.json()["error"]["message"]) == (status, message)
    assert code in (None, reply.code)
    assert set(reply.json()["error"]) == {"code", "message", "hint"}
    assert reply.headers["content-type"] == "application/json"


def test_unknown_paths_and_methods() -> None:
    unknown = _ask(_raising(ValueError()), path="/v1/segmnt")
    assert (unknown.status, unknown.code) == (404, "not_found")
    assert unknown.json()["error"]["message"] == "there is no '/v1/segmnt' here"
    wrong = _ask(_raising(ValueError()), method="DELETE")
    assert (wrong.status, wrong.code, wrong.headers["allow"]) == (405, "method_not_allowed", "POST")
    assert wrong.json()["error"]["message"] == "/v1/segment does not take 'DELETE'"


def test_invalid_fields_are_named_and_their_values_are_not() -> None:
    async def route(size: int = Form(), scale: float = Form(gt=0)) -> None: ...

    reply = _ask(route, b"size=secret&scale=-1")
    assert (reply.status, reply.code, reply.json()["error"]["hint"]) == (422, "invalid_request", USAGE)
    assert reply.json()["error"]["message"] == (
        "size: Input should be a valid integer, unable to parse string as an integer; "
        "scale: Input should be greater than 0"
    )
