"""What every route of the HTTP API works with: the backends, the names of models, threads that decode and encode.

services = Services(config, backends, secret)
sam = services.sam()                      # 503 where it is not configured
decoded = await services.read(image)
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from fastapi import Request, Response, UploadFile
from pydantic import BaseModel

from foodseg.config.serve import ServeConfig
from foodseg.serve.embedding_cache import image_digest
from foodseg.serve.http.codec import DecodedImage, read_image
from foodseg.serve.http.schema import ApiError
from foodseg.serve.http.signed_ids import ImageId, seal
from foodseg.serve.model_discovery import CLIP_SOURCE, REGIONS_SOURCE, SAM_SOURCE
from foodseg.serve.model_lookup import ModelNames
from foodseg.serve.protocols import (
    Backends,
    ClipBackend,
    ModelState,
    RefineBackend,
    RegionsBackend,
    SamBackend,
    SecondLook,
)

CODEC_THREADS = 2  # decoding and encoding release the GIL only in part
T = TypeVar("T")


class Services:
    """config, backends: as for `make_api`. names: of the models. secret: signs image ids."""

    def __init__(self, config: ServeConfig, backends: Backends, secret: bytes) -> None:
        self.config = config
        self.backends = backends
        self.secret = secret
        self.names = ModelNames(backends.segmenter)
        self._codec = ThreadPoolExecutor(CODEC_THREADS, thread_name_prefix="codec")

    async def read(self, image: UploadFile) -> DecodedImage:
        """Returns the image of a request; raises as `read_image`."""
        data = await image.read()
        return await self.in_thread(partial(read_image, data, self.config.image))

    async def seal(self, request: Request, decoded: DecodedImage) -> str | None:
        """Returns the public id of an image, which need not be embedded yet; None without SAM."""
        if self.backends.sam is None:
            return None
        digest = await self.in_thread(partial(image_digest, decoded.image))
        return seal(ImageId(digest, decoded.height, decoded.width), self.secret, key_of(request))

    def in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        """Runs work in one of the threads that decode and encode."""
        return asyncio.get_running_loop().run_in_executor(self._codec, work)

    def sam(self) -> SamBackend:
        """Returns Segment Anything. ApiError: 503 sam_not_configured."""
        if self.backends.sam is None:
            raise ApiError(
                503, "sam_not_configured", "Segment Anything is not configured here",
                f"get {SAM_SOURCE}, and start with --set sam.weights=FILE",
            )  # fmt: skip
        return self.backends.sam

    def refine(self) -> RefineBackend:
        """Returns what redraws label maps along SAM's masks; raises as `sam`."""
        self.sam()
        assert self.backends.refine is not None  # it comes with SAM
        return self.backends.refine

    def clip(self) -> ClipBackend:
        """Returns CLIP. ApiError: 503 clip_not_configured."""
        if self.backends.clip is None:
            raise ApiError(
                503, "clip_not_configured", "CLIP is not configured here",
                f"{CLIP_SOURCE}, and start with --set clip.model=ViT-B-16 --set clip.weights=FILE",
            )  # fmt: skip
        return self.backends.clip

    def regions(self) -> RegionsBackend:
        """Returns the model that names regions. ApiError: 503 regions_not_configured."""
        if self.backends.regions is None:
            raise ApiError(
                503, "regions_not_configured", "no model that names regions is configured here",
                f"{REGIONS_SOURCE}, and start with --set regions.model=runs/NAME",
            )  # fmt: skip
        return self.backends.regions

    def second_look(self, regions: RegionsBackend, state: ModelState) -> SecondLook:
        """Returns which regions of a model's label maps are doubtful.

        Raises:
            ApiError: 503 recheck_not_configured, 422 recheck_other_classes.
        """
        card = regions.card
        if not card.looks_again:
            raise ApiError(
                503, "recheck_not_configured", "the model of regions here is a segmenter, which looks at none again",
                f"{REGIONS_SOURCE}, and start with --set regions.model=runs/NAME",
            )  # fmt: skip
        if card.classes != state.classes:
            raise ApiError(
                422, "recheck_other_classes",
                f"the model {state.name} knows other classes than the region classifier of this endpoint",
                "leave recheck out, or train both on one label space",
            )  # fmt: skip
        assert self.config.regions is not None
        return SecondLook(self.config.regions.below, card.least_share)


def json_of(answer: BaseModel) -> Response:
    """Returns the response of an answer."""
    return Response(answer.model_dump_json(), media_type="application/json")


def id_of(request: Request) -> str:
    """Returns the id of a request."""
    return str(request.state.request_id)


def key_of(request: Request) -> str:
    """Returns the name of the key of a request."""
    return str(request.state.key_id)
