"""The HTTP API as one ASGI application: middleware, routes, page. A route decodes, calls a backend and encodes.

    app = make_api(config, Backends(segmenter), secret=b"...", keys=None)   # `uvicorn` runs it as it is

It does not import Ray: it calls the deployments through the protocols of `serve/protocols.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request, Response

import foodseg
from foodseg import storage
from foodseg.config.serve import ServeConfig
from foodseg.serve.http.api_keys import Keys
from foodseg.serve.http.codec import class_infos
from foodseg.serve.http.error_response import HANDLERS
from foodseg.serve.http.form_route import FormRoute
from foodseg.serve.http.image_routes import ImageRoutes
from foodseg.serve.http.middleware import Exchange, Guard
from foodseg.serve.http.region_codec import regions_info
from foodseg.serve.http.schema import (
    ApiError,
    ClassesAnswer,
    ErrorAnswer,
    Health,
    ModelInfo,
    ModelsAnswer,
    ModelStateInfo,
    PromptAnswer,
    RegionsAnswer,
    SegmentAnswer,
    ZeroShotAnswer,
)
from foodseg.serve.http.services import Services, id_of, json_of
from foodseg.serve.model_lookup import no_model
from foodseg.serve.page import PAGE_HEADERS, page_file
from foodseg.serve.protocols import Backends

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 404, 405, 408, 413, 415, 422, 429, 500, 503)
}
DESCRIPTION = """Segments the ingredients on an image of food.

An image may also be sent as the whole body (`--data-binary @lunch.jpg`, the other fields in the query of the address),
or as base64 or a data URL, in a field or in JSON: `{"image": "<base64>", "format": "png"}`.
"""


def make_api(
    config: ServeConfig,
    backends: Backends,
    *,
    secret: bytes,
    keys: Keys | None,
    on_finish: Callable[[Exchange], None] | None = None,
    announce_request_id: bool = True,
) -> Guard:
    """Returns the application.

    Args:
        secret: signs image ids; the same in all processes of one endpoint.
        keys, on_finish, announce_request_id: as for `Guard`.
    """
    api = FastAPI(
        title="foodseg",
        version=foodseg.__version__,
        description=DESCRIPTION,
        responses=ERRORS,
        exception_handlers=HANDLERS,
    )
    api.state.max_body_bytes = config.http.max_body_bytes
    api.include_router(_router(Services(config, backends, secret)))
    return Guard(api, config.http, keys, on_finish, announce_request_id)


def _router(services: Services) -> APIRouter:
    images, status = ImageRoutes(services), _StatusRoutes(services)
    router = APIRouter(route_class=FormRoute)
    add = partial(router.add_api_route, include_in_schema=True)
    add("/v1/segment", images.segment, methods=["POST"], response_model=SegmentAnswer)
    add("/v1/prompt", images.prompt, methods=["POST"], response_model=PromptAnswer)
    add("/v1/zero-shot", images.zero_shot, methods=["POST"], response_model=ZeroShotAnswer)
    add("/v1/classify-regions", images.classify_regions, methods=["POST"], response_model=RegionsAnswer)
    add("/v1/classes", status.classes, methods=["GET"], response_model=ClassesAnswer)
    add("/v1/models", status.models, methods=["GET"], response_model=ModelsAnswer)
    add("/healthz", status.healthz, methods=["GET"], response_model=Health)
    add("/readyz", status.readyz, methods=["GET"], response_model=Health)
    router.add_api_route("/", status.page, methods=["GET"], include_in_schema=False)
    router.add_api_route("/page/{name}", status.page, methods=["GET"], include_in_schema=False)
    return router


class _StatusRoutes:
    """The routes that take no image."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def classes(self, request: Request, model: Annotated[str, Query(max_length=64)] = "") -> Response:
        """The classes of a model, with their colours."""
        state, _ = await self._services.names.find(model)
        info = ModelInfo(name=state.name, sha=state.sha or "")
        return json_of(ClassesAnswer(request_id=id_of(request), model=info, classes=class_infos(state.classes)))

    async def models(self, request: Request) -> Response:
        """Every model: the checkpoint that is configured, the one that answers, and why they differ."""
        infos = [
            ModelStateInfo(
                name=state.name, default=state.default, conditioned=state.conditioned,
                open_vocabulary=state.open_vocabulary, classes=len(state.classes), wanted=state.wanted,
                serving=state.serving, sha=state.sha, error=state.error,
            )
            for state in await self._services.names.states()
        ]  # fmt: skip
        backends, config = self._services.backends, self._services.config
        weights = config.clip
        shown = None if weights is None else storage.redact(f"{weights.model} {weights.weights or ''}".strip())
        answer = ModelsAnswer(
            request_id=id_of(request), models=infos, sam=backends.sam is not None, clip=backends.clip is not None,
            clip_model=shown, regions=None if backends.regions is None else regions_info(backends.regions.card),
        )  # fmt: skip
        return json_of(answer)

    async def healthz(self) -> Response:
        """The process answers."""
        return json_of(Health(status="ok"))

    async def readyz(self) -> Response:
        """The default model answers; 503 before. Another model that cannot be loaded does not matter."""
        states = await self._services.names.states()
        backends = self._services.backends
        if not states and backends.sam is None and backends.clip is None and backends.regions is None:
            raise no_model()
        waiting = next((state for state in states if state.default and state.sha is None), None)
        if waiting is not None:
            why = f" ({waiting.error})" if waiting.error else ""
            raise ApiError(
                503, "starting", f"the model {waiting.name} is not loaded{why}", "GET /v1/models shows its state", 2.0
            )
        return json_of(Health(status="ok"))

    async def page(self, request: Request) -> Response:
        found = page_file(request.url.path)
        if found is None:
            raise ApiError(404, "not_found", "there is no such file", "the page is at /")
        return Response(found.body, media_type=found.media_type, headers=dict(PAGE_HEADERS))
