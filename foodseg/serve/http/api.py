"""The HTTP API as one ASGI application: middleware, routes, page. A route decodes, calls a backend and encodes.

    app = make_api(config, Backends(segmenter), secret=b"...", keys=None)   # `uvicorn` runs it as it is

It does not import Ray: it calls the deployments through the protocols of `serve/protocols.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import APIRouter, FastAPI, File, Form, Query, Request, Response, UploadFile
from pydantic import BaseModel

import foodseg
from foodseg import storage
from foodseg.config.serve import ServeConfig
from foodseg.serve.embedding_cache import image_digest
from foodseg.serve.http.api_keys import Keys
from foodseg.serve.http.codec import (
    DecodedImage,
    class_infos,
    decoded_size,
    read_image,
    region,
    segment_answer,
    to_decoded,
    wanted_labels,
    zero_shot_answer,
)
from foodseg.serve.http.error_response import HANDLERS
from foodseg.serve.http.form_route import FormRoute
from foodseg.serve.http.middleware import Exchange, Guard
from foodseg.serve.http.schema import (
    MAX_FIELD,
    ApiError,
    ClassesAnswer,
    ErrorAnswer,
    Health,
    ImageInfo,
    MaskFormat,
    ModelInfo,
    ModelsAnswer,
    ModelStateInfo,
    PromptAnswer,
    RefineBy,
    RegionFormat,
    SegmentAnswer,
    ZeroShotAnswer,
    parse_box,
    parse_name_list,
    parse_points,
)
from foodseg.serve.http.signed_ids import ImageId, image_expired, seal, unseal
from foodseg.serve.model_discovery import CLIP_SOURCE, SAM_SOURCE
from foodseg.serve.model_lookup import ModelNames, ingredient_ids, no_model
from foodseg.serve.page import PAGE_HEADERS, page_file
from foodseg.serve.protocols import (
    Backends,
    ClipBackend,
    ImageExpired,
    Labelled,
    ModelState,
    RefineBackend,
    SamBackend,
)

CODEC_THREADS = 2  # decoding and encoding release the GIL only in part
EMBEDDINGS = 3  # tries for one image: while replicas change, its prompt may reach another replica than its embedding
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 401, 404, 405, 408, 413, 415, 422, 429, 500, 503)
}
DESCRIPTION = """Segments the ingredients on an image of food.

An image may also be sent as the whole body (`--data-binary @lunch.jpg`, the other fields in the query of the address),
or as base64 or a data URL, in a field or in JSON: `{"image": "<base64>", "format": "png"}`.
"""
T = TypeVar("T")

ImageUpload = Annotated[UploadFile, File(description="JPEG, PNG or WebP")]
MaybeImageUpload = Annotated[UploadFile | None, File(description="JPEG, PNG or WebP; or give image_id")]
Text = Annotated[str, Form(max_length=MAX_FIELD)]


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
    api.include_router(_Routes(config, backends, secret).router())
    return Guard(api, config.http, keys, on_finish, announce_request_id)


class _Routes:
    def __init__(self, config: ServeConfig, backends: Backends, secret: bytes) -> None:
        self._config = config
        self._backends = backends
        self._secret = secret
        self._names = ModelNames(backends.segmenter)
        self._codec = ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec")

    def router(self) -> APIRouter:
        router = APIRouter(route_class=FormRoute)
        add = partial(router.add_api_route, include_in_schema=True)
        add("/v1/segment", self.segment, methods=["POST"], response_model=SegmentAnswer)
        add("/v1/prompt", self.prompt, methods=["POST"], response_model=PromptAnswer)
        add("/v1/zero-shot", self.zero_shot, methods=["POST"], response_model=ZeroShotAnswer)
        add("/v1/classes", self.classes, methods=["GET"], response_model=ClassesAnswer)
        add("/v1/models", self.models, methods=["GET"], response_model=ModelsAnswer)
        add("/healthz", self.healthz, methods=["GET"], response_model=Health)
        add("/readyz", self.readyz, methods=["GET"], response_model=Health)
        router.add_api_route("/", self.page, methods=["GET"], include_in_schema=False)
        router.add_api_route("/page/{name}", self.page, methods=["GET"], include_in_schema=False)
        return router

    async def segment(
        self,
        request: Request,
        image: ImageUpload,
        model: Text = "",
        ingredients: Text = "",
        refine: Annotated[RefineBy, Form()] = "none",
        format: Annotated[MaskFormat, Form()] = "rle",
        pixels_per_cm: Annotated[float | None, Form(gt=0, lt=1e6, allow_inf_nan=False)] = None,
    ) -> Response:
        """Segments the ingredients: areas, shares, confidences and masks.

        `ingredients`: names between commas or a JSON list, for models that can be conditioned on them. `refine` aligns
        the borders with SAM's masks: with `vote` a mask takes the id that most of its pixels have, with `soft` the id
        with the greatest mean logit. `pixels_per_cm` adds areas in square centimetres.
        """
        refiner = self._refine() if refine in ("vote", "sam") else None
        sam = self._sam() if refine == "soft" else None
        state, model_id = await self._names.find(model)
        provided = await self._in_thread(partial(ingredient_ids, ingredients, state)) if ingredients else None
        decoded = await self._read(image)
        masks = [] if sam is None else await self._masks(sam, decoded)
        labelling = self._backends.segmenter.segment(decoded.image, model_id, provided, masks)
        # the digest of the pixels, which takes milliseconds, is computed meanwhile
        labelled, image_id = await asyncio.gather(labelling, self._seal(request, decoded))
        voted = None if refiner is None else await self._vote(refiner, decoded, labelled, state)
        encode = partial(
            segment_answer, voted or labelled, state.classes, (decoded.height, decoded.width), format,
            request_id=_id(request), image_id=image_id, refined=voted is not None or bool(masks),
            pixels_per_cm=pixels_per_cm,
        )  # fmt: skip
        return _json(await self._in_thread(encode))

    async def prompt(
        self,
        request: Request,
        image: MaybeImageUpload = None,
        image_id: Text = "",
        points: Text = "",
        box: Text = "",
        format: Annotated[RegionFormat, Form()] = "rle",
    ) -> Response:
        """Masks for points and a box, best first, on an image or on the `image_id` of an earlier answer.

        `points`: JSON `[[x, y, 1 = in or 0 = out], ...]`; `box`: JSON `[x0, y0, x1, y1]`; in pixels of the image.
        """
        sam = self._sam()
        if image is None and not image_id:
            raise ApiError(422, "no_image", "neither image nor image_id was sent", "send one of them")
        decoded = None if image is None else await self._read(image)
        found = unseal(image_id, self._secret, _key(request)) if decoded is None else None
        height, width = (found.height, found.width) if found else (decoded.height, decoded.width)  # type: ignore[union-attr]
        clicks, frame = parse_points(points, width, height), parse_box(box, width, height)
        if not clicks and frame is None:
            raise ApiError(422, "no_prompt", "neither points nor a box were sent", "click on the image")
        size, decoded_hw = (height, width), decoded_size(height, width, self._config.image)
        clicks, frame = to_decoded(clicks, frame, size, decoded_hw)
        for again in reversed(range(1 if decoded is None else EMBEDDINGS)):
            digest = found.digest if found else await sam.embed(decoded.image)  # type: ignore[union-attr]
            try:
                masks = await sam.prompt(digest, clicks, frame)
                break
            except ImageExpired:
                if not again:
                    raise image_expired() from None
        regions = await self._in_thread(lambda: [region(mask, size, format) for mask in masks])
        public = seal(ImageId(digest, height, width), self._secret, _key(request))
        info = ImageInfo(width=width, height=height, id=public)
        return _json(PromptAnswer(request_id=_id(request), image=info, masks=regions))

    async def zero_shot(
        self,
        request: Request,
        image: ImageUpload,
        names: Text,
        model: Text = "",
        masks: Annotated[bool, Form()] = False,
        dense: Annotated[bool, Form()] = True,
        refine: Annotated[RefineBy, Form()] = "none",
        format: Annotated[MaskFormat, Form()] = "rle",
    ) -> Response:
        """Where any names are on the image, and how well they fit it as a whole.

        With `dense=false` only the latter. `masks=true`: how well they fit each region that SAM finds. `refine`: as for
        /v1/segment, of the label map. `model`: one with an open vocabulary (`/v1/models`) makes it instead of CLIP.
        """
        namer = None if not model else await self._names.open_vocabulary(model)
        clip = self._clip() if namer is None or masks else self._backends.clip
        how = "vote" if refine == "sam" else refine
        sam = self._sam() if masks or (dense and how != "none") else None
        wanted = parse_name_list(names, "names")
        labels = wanted_labels(wanted)
        decoded = await self._read(image)
        size = (decoded.height, decoded.width)
        scores = [] if clip is None else await clip.scores(decoded.image, labels)
        found = [] if sam is None else await sam.masks(decoded.image, self._config.refine.seconds)
        outlines = [mask.mask for mask in found]
        rows = await clip.mask_scores(decoded.image, outlines, labels) if clip and masks and found else []
        drawn, labelled = outlines if how != "none" else [], None
        if dense and namer is not None:
            labelled = await self._backends.segmenter.label_names(decoded.image, namer, wanted, drawn, how)
        elif dense and clip is not None:
            labelled = await clip.label(decoded.image, wanted, drawn, how)
        info = ImageInfo(width=decoded.width, height=decoded.height, id=await self._seal(request, decoded))
        encode = partial(
            zero_shot_answer, labelled, labels, size, format, request_id=_id(request), image=info, scores=scores,
            masks=list(zip(found, rows, strict=True)) if masks else None, refined=how != "none" and bool(found),
        )  # fmt: skip
        return _json(await self._in_thread(encode))

    async def classes(self, request: Request, model: Annotated[str, Query(max_length=64)] = "") -> Response:
        """The classes of a model, with their colours."""
        state, _ = await self._names.find(model)
        info = ModelInfo(name=state.name, sha=state.sha or "")
        return _json(ClassesAnswer(request_id=_id(request), model=info, classes=class_infos(state.classes)))

    async def models(self, request: Request) -> Response:
        """Every model: the checkpoint that is configured, the one that answers, and why they differ."""
        infos = [
            ModelStateInfo(
                name=state.name, default=state.default, conditioned=state.conditioned,
                open_vocabulary=state.open_vocabulary, classes=len(state.classes), wanted=state.wanted,
                serving=state.serving, sha=state.sha, error=state.error,
            )
            for state in await self._names.states()
        ]  # fmt: skip
        sam, clip = self._backends.sam is not None, self._backends.clip is not None
        weights = self._config.clip
        shown = None if weights is None else storage.redact(f"{weights.model} {weights.weights or ''}".strip())
        return _json(ModelsAnswer(request_id=_id(request), models=infos, sam=sam, clip=clip, clip_model=shown))

    async def healthz(self) -> Response:
        """The process answers."""
        return _json(Health(status="ok"))

    async def readyz(self) -> Response:
        """The default model answers; 503 before. Another model that cannot be loaded does not matter."""
        states = await self._names.states()
        if not states and self._backends.sam is None and self._backends.clip is None:
            raise no_model()
        waiting = next((state for state in states if state.default and state.sha is None), None)
        if waiting is not None:
            why = f" ({waiting.error})" if waiting.error else ""
            raise ApiError(
                503, "starting", f"the model {waiting.name} is not loaded{why}", "GET /v1/models shows its state", 2.0
            )
        return _json(Health(status="ok"))

    async def page(self, request: Request) -> Response:
        found = page_file(request.url.path)
        if found is None:
            raise ApiError(404, "not_found", "there is no such file", "the page is at /")
        return Response(found.body, media_type=found.media_type, headers=dict(PAGE_HEADERS))

    async def _read(self, image: UploadFile) -> DecodedImage:
        data = await image.read()
        return await self._in_thread(partial(read_image, data, self._config.image))

    async def _masks(self, sam: SamBackend, decoded: DecodedImage) -> list[np.ndarray]:
        """Returns SAM's masks of an image, as far as they are found in time."""
        return [found.mask for found in await sam.masks(decoded.image, self._config.refine.seconds)]

    async def _vote(
        self, refine: RefineBackend, decoded: DecodedImage, labelled: Labelled, state: ModelState
    ) -> Labelled | None:
        """Returns the refined label map; None if its own deadline has passed: the answer has refined: false then."""
        try:
            voting = refine.vote(decoded.image, labelled, state.classes)
            return await asyncio.wait_for(voting, self._config.refine.seconds)
        except asyncio.TimeoutError:
            return None

    async def _seal(self, request: Request, decoded: DecodedImage) -> str | None:
        """Returns the public id of an image, which need not be embedded yet; None without SAM."""
        if self._backends.sam is None:
            return None
        digest = await self._in_thread(partial(image_digest, decoded.image))
        return seal(ImageId(digest, decoded.height, decoded.width), self._secret, _key(request))

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._codec, work)

    def _sam(self) -> SamBackend:
        if self._backends.sam is None:
            raise ApiError(
                503, "sam_not_configured", "Segment Anything is not configured here",
                f"get {SAM_SOURCE}, and start with --set sam.weights=FILE",
            )  # fmt: skip
        return self._backends.sam

    def _refine(self) -> RefineBackend:
        self._sam()
        assert self._backends.refine is not None
        return self._backends.refine

    def _clip(self) -> ClipBackend:
        if self._backends.clip is None:
            raise ApiError(
                503, "clip_not_configured", "CLIP is not configured here",
                f"{CLIP_SOURCE}, and start with --set clip.model=ViT-B-16 --set clip.weights=FILE",
            )  # fmt: skip
        return self._backends.clip


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


def _id(request: Request) -> str:
    return str(request.state.request_id)


def _key(request: Request) -> str:
    return str(request.state.key_id)
