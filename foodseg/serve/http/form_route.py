"""A custom FastAPI route class that reads the fields of a form from any kind of request body.

    router = APIRouter(route_class=FormRoute)

The OpenAPI document describes each route as a multipart form; the class accepts other kinds of body in addition.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.params import File
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from foodseg.serve.http.request_body import MAX_PARTS, Part, boundary_of, parts_of, plain_body
from foodseg.serve.http.request_fields import IMAGE, Arranged, arrange, described
from foodseg.serve.http.schema import ApiError
from foodseg.serve.http.usage import base_of, usage

_LOG = logging.getLogger("foodseg.serve")


class _InMemory(MultiPartParser):
    spool_max_size = 2**31  # `Guard` has limited the body, and it is in memory already


class FormRequest(Request):
    """A request whose form was already read."""

    def __init__(self, request: Request, form: FormData) -> None:
        super().__init__(request.scope, request.receive)
        self._given = form

    def form(self, **limits: Any) -> Any:
        """Returns the form; its limits were applied when it was read."""

        async def given() -> FormData:
            return self._given

        return given()


class FormRoute(APIRoute):
    """A route that finds its declared form fields in any kind of body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns FastAPI's own handler, called after the form was read."""
        handle = super().get_route_handler()
        params = self.dependant.body_params
        fields = tuple(param.alias for param in params)
        files = tuple(param.alias for param in params if isinstance(param.field_info, File) and param.alias != IMAGE)
        needs_image = any(param.alias == IMAGE and param.field_info.is_required() for param in params)
        if IMAGE not in fields:
            return handle

        async def read_then_handle(request: Request) -> Response:
            base = base_of(request.scope)
            try:
                return await handle(FormRequest(request, await _form(request, fields, files, needs_image)))
            except ApiError as error:
                raise _with_usage(error, usage(self.path, base)) from None

        return read_then_handle


async def _form(request: Request, fields: tuple[str, ...], files: tuple[str, ...], needs_image: bool) -> FormData:
    headers = request.headers
    encoding = headers.get("content-encoding", "").strip().lower()
    limit = request.app.state.max_body_bytes
    body = await asyncio.to_thread(plain_body, await request.body(), encoding, limit)
    content_type = headers.get("content-type", "")
    boundary = boundary_of(content_type, body)
    if boundary is not None:
        parts, read_as = await _multipart(body, boundary), "a form"
    else:
        parts, read_as = await asyncio.to_thread(parts_of, content_type, body, fields)
    query = parse_qsl(request.url.query, keep_blank_values=True)
    found: Arranged = await asyncio.to_thread(arrange, parts, fields, query, files)
    if found.image is None and needs_image:
        raise ApiError(422, "no_image", f"no image came, but {described(parts, read_as)}")
    if found.notes or boundary is None:
        _LOG.info("read as", extra={"body": read_as, "notes": found.notes})
    form: list[tuple[str, Any]] = list(found.texts.items())
    contents = found.files if found.image is None else {**found.files, IMAGE: found.image}
    form += [(name, UploadFile(BytesIO(data), filename=name, size=len(data))) for name, data in contents.items()]
    return FormData(form)


async def _multipart(body: bytes, boundary: str) -> list[Part]:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    headers = Headers({"content-type": f'multipart/form-data; boundary="{boundary}"'})
    parser = _InMemory(headers, whole(), max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=max(1, len(body)))
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "a part without a name"
        raise ApiError(400, "bad_request", f"the form cannot be read: {reason}") from None
    return [_part(name, value) for name, value in form.multi_items()]


def _part(name: str, value: str | UploadFile) -> Part:
    return Part(name, value) if isinstance(value, str) else Part(name, value.file.read(), value.filename or "")


def _with_usage(error: ApiError, command: str) -> ApiError:
    """Returns the error with a hint that ends with a correct command."""
    if error.status not in (400, 413, 415, 422) or "curl " in error.hint:
        return error
    hint = f"{error.hint.rstrip('; ')}; for example: {command}" if error.hint else f"for example: {command}"
    return ApiError(error.status, error.code, error.message, hint, error.retry_after)
