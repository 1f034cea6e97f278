"""Every error, of any origin, as an error response of one JSON form: handlers for FastAPI, and what `Guard` refuses.

FastAPI(exception_handlers=HANDLERS)
"""

import json
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from foodseg.serve.http.schema import ApiError
from foodseg.serve.http.usage import base_of, no_such_path, route_of, usage, wrong_method


def error_response(error: Exception, scope: MutableMapping[str, Any]) -> Response:
    """Returns the response for an exception; its code goes into `scope["state"]`, for the log."""
    found = _api_error(error, scope)
    scope["state"]["code"] = found.code
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    headers |= found.headers()
    if found.status == 401:
        headers["www-authenticate"] = "Bearer"
    if found.code == "body_timeout":  # the rest of the body would be taken for the next request
        headers["connection"] = "close"
    # in ASCII: a message may quote half of a surrogate pair
    return Response(json.dumps(found.body()), found.status, headers, "application/json")


async def _handle(request: Request, error: Exception) -> Response:
    return error_response(error, request.scope)


HANDLERS: Any = dict.fromkeys((ApiError, HTTPException, RequestValidationError, Exception), _handle)


def _api_error(error: Exception, scope: MutableMapping[str, Any]) -> ApiError:
    path, base = route_of(scope), base_of(scope)
    example = f"for example: {usage(path, base)}"
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestValidationError):
        message = "; ".join(_sentence(item) for item in error.errors()[:3])
        return ApiError(422, "invalid_request", message[:500], example)
    if isinstance(error, HTTPException):
        status, phrase = error.status_code, HTTPStatus(error.status_code).phrase
        if status == 404:
            return no_such_path(path, base)
        if status == 405:
            return wrong_method(scope["method"], path, base)
        code = phrase.lower().replace(" ", "_")
        return ApiError(status, code, str(error.detail)[:500], example if status == 400 else "")
    if isinstance(error, MemoryError):
        return ApiError(503, "out_of_memory", "the server is short of memory", retry_after=5.0)
    request_id = scope["state"]["request_id"]
    return ApiError(500, "internal", "something went wrong on our side", f"report request id {request_id}")


def _sentence(item: dict[str, Any]) -> str:
    """Returns 'field: what is wrong' for one validation error, without the value that the client sent."""
    location = [str(part) for part in item["loc"] if part not in ("body", "query", "path", "header")]
    return f"{'.'.join(location) or 'request'}: {item['msg']}"
