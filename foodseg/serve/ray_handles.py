"""The protocols of `serve/protocols.py`, implemented over handles of the deployments.

Serve does not retry an accepted request when its replica dies; here it is retried once, on another replica. Serve's
exceptions become error responses that a client can act on.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from grpc.aio import AioRpcError
from ray.exceptions import ActorDiedError, ActorUnavailableError, ObjectLostError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from foodseg.data.image_io import fit_longest, resize_image
from foodseg.data.regions import Region
from foodseg.errors import FoodsegError
from foodseg.serve.embedding_cache import image_digest
from foodseg.serve.http.schema import ApiError
from foodseg.serve.packing import pack, pack_labels, pack_parts, unpack_labels, unpack_regions
from foodseg.serve.protocols import ImageExpired, Labelled, ModelState, RegionsCard, SamMask, SecondLook, model_id

RETRY_AFTER_SECONDS = 1.0
# AioRpcError: in throughput mode calls use gRPC, and some connections break with it
_LOST = (
    ActorDiedError, ActorUnavailableError, ReplicaUnavailableError, WorkerCrashedError, ObjectLostError, AioRpcError,
)  # fmt: skip
_log = logging.getLogger(__name__)


async def ask(handle: DeploymentHandle, method: str, *args: Any) -> Any:
    """Calls a method of a deployment; retries once if its replica was lost, within the deadline of the request.

    Raises:
        ApiError: 429 its queue is full, 503 it is not available, or an ApiError that the deployment raised.
        ImageExpired: as the deployment raised it.
    """
    for first in (True, False):
        response = getattr(handle, method).remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()  # the client has left or the deadline has passed; Serve would continue the work
            raise
        except BackPressureError as error:
            # None: the error came from another process
            retry_after = getattr(error, "retry_after_s", None) or RETRY_AFTER_SECONDS
            raise _answer(429, "too_many_requests", handle, "has a full queue", retry_after) from None
        except DeploymentUnavailableError:
            raise _answer(503, "backend_unavailable", handle, "did not start", 5.0) from None
        except _LOST as error:
            if not first:
                raise _answer(503, "backend_lost", handle, "was lost twice", RETRY_AFTER_SECONDS) from None
            _log.warning("%s was lost (%s), retrying", handle.deployment_name, type(error).__name__)
        except (RayTaskError, FoodsegError) as error:
            raise _own(error) from None
    raise AssertionError


def _own(error: Exception) -> Exception:
    """Returns what to raise for an error of the deployment, which Ray has wrapped in its default mode."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, ApiError | ImageExpired):
        return cause
    if isinstance(cause, FoodsegError):
        return ApiError(503, "backend_failed", str(cause), retry_after=5.0)
    return error


def _answer(status: int, code: str, handle: DeploymentHandle, what: str, retry_after: float) -> ApiError:
    return ApiError(status, code, f"{handle.deployment_name} {what}", "try again", retry_after)


class RaySegmenter:
    """`SegmenterBackend` over a handle of `SegmenterDeployment`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._sides: dict[str, int | None] = {}  # by model id

    async def segment(
        self,
        image: np.ndarray,
        model: str,
        ingredients: tuple[int, ...] | None,
        masks: Sequence[np.ndarray] = (),
        second_look: SecondLook | None = None,
    ) -> Labelled:
        height, width = image.shape[:2]
        side = self._sides.get(model)
        if side is not None and side < max(height, width):
            # the model sees the image at this size; resizing it here, in the same way, sends fewer bytes
            image = await asyncio.to_thread(resize_image, image, *fit_longest(height, width, side))
        handle = self._handle.options(multiplexed_model_id=model)
        packed = await asyncio.to_thread(pack, masks) if masks else None
        return unpack_labels(await ask(handle, "segment", image, (height, width), ingredients, packed, second_look))

    async def label_names(
        self, image: np.ndarray, model: str, names: Sequence[str], masks: Sequence[np.ndarray], refine: str
    ) -> Labelled:
        handle = self._handle.options(multiplexed_model_id=model)
        packed = await asyncio.to_thread(pack, masks) if masks else None
        return unpack_labels(await ask(handle, "label_names", image, list(names), packed, refine))

    async def models(self) -> list[ModelState]:
        states: list[ModelState] = await ask(self._handle, "models")
        for state in states:
            if state.sha is not None:
                self._sides[model_id(state.name, state.sha)] = state.longest_side
        return states


class RaySam:
    """`SamBackend` over a handle of `SamDeployment`; an image always goes to the same replica while that one lives."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def embed(self, image: np.ndarray) -> str:
        digest = await asyncio.to_thread(image_digest, image)
        await ask(self._handle.options(session_id=digest), "embed", digest, image)
        return digest

    async def prompt(
        self,
        digest: str,
        points: Sequence[tuple[float, float, int]],
        box: tuple[float, float, float, float] | None,
    ) -> list[SamMask]:
        handle = self._handle.options(session_id=digest)
        return unpack_regions(await ask(handle, "prompt", digest, list(points), box))

    async def masks(self, image: np.ndarray, seconds: float) -> list[SamMask]:
        digest = await asyncio.to_thread(image_digest, image)
        packed = await ask(self._handle.options(session_id=digest), "masks", digest, image, seconds)
        return await asyncio.to_thread(unpack_regions, packed)


class RayClip:
    """`ClipBackend` over a handle of `ClipDeployment`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        scores: list[float] = await ask(self._handle, "scores", image, list(names))
        return scores

    async def mask_scores(
        self, image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str]
    ) -> list[list[float]]:
        packed = await asyncio.to_thread(pack, masks)
        scores: list[list[float]] = await ask(self._handle, "mask_scores", image, packed, list(names))
        return scores

    async def label(
        self, image: np.ndarray, names: Sequence[str], masks: Sequence[np.ndarray], refine: str
    ) -> Labelled | None:
        packed = await asyncio.to_thread(pack, masks)
        found = await ask(self._handle, "label", image, list(names), packed, refine)
        return None if found is None else unpack_labels(found)


class RayRefine:
    """`RefineBackend` over a handle of `RefineDeployment`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def vote(self, image: np.ndarray, labelled: Labelled, names: Sequence[str]) -> Labelled | None:
        packed = await ask(self._handle, "vote", image, pack_labels(labelled), tuple(names))
        return None if packed is None else unpack_labels(packed)


class RayRegions:
    """`RegionsBackend` over a handle of `RegionsDeployment`."""

    def __init__(self, handle: DeploymentHandle, card: RegionsCard) -> None:
        self._handle = handle
        self.card = card

    async def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        packed = await asyncio.to_thread(pack_parts, regions, image.shape[:2])
        logits: np.ndarray = await ask(self._handle, "logits", image, packed)
        return logits
