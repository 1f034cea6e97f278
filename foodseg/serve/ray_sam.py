"""The deployment of Segment Anything: cached image embeddings, prompts on them, masks of everything.

All requests for one image go to the replica that holds its embedding: the digest is Serve's session id, and the router
hashes it to a replica. When a replica stops, its embeddings are lost, and the client sends the image again.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ray import serve
from ray.serve.config import RequestRouterConfig

from foodseg.config.serve import SamConfig
from foodseg.errors import UserError
from foodseg.models.sam.embedding import SamEmbedding
from foodseg.models.sam.mask_grid import MaskGrid
from foodseg.models.sam.sam import load_sam
from foodseg.predict.device import pick_device
from foodseg.serve.embedding_cache import EmbeddingCache
from foodseg.serve.health import Health
from foodseg.serve.http.schema import ApiError
from foodseg.serve.packing import PackedRegions, pack_regions
from foodseg.serve.protocols import ImageExpired, SamMask
from foodseg.serve.ray_metrics import CacheMetrics
from foodseg.serve.ray_replica import start_replica

ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


@serve.deployment(
    name="Sam",
    max_ongoing_requests=16,
    max_surge_percent=100,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.3},
    request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    health_check_period_s=5,
)
class SamDeployment:
    """See the protocol `SamBackend` of `serve/protocols.py`, which `RaySam` implements over a handle to this."""

    def __init__(self, config: SamConfig) -> None:
        start_replica()
        grid = MaskGrid(points_per_side=config.points_per_side, points_per_batch=config.points_per_batch)
        self._sam = load_sam(config.kind, config.weights, pick_device(mps=False), grid)
        self._cache: EmbeddingCache[SamEmbedding] = EmbeddingCache(config.cache_bytes)
        self._metrics = CacheMetrics()
        # a click takes milliseconds: it must not queue behind images to embed, which take seconds
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._quick = ThreadPoolExecutor(1, thread_name_prefix="decoder")
        self._health = Health(self._probe)
        self._encoder_failed = False

    async def check_health(self) -> None:
        """Serve replaces this replica if it raises."""
        await self._health.check()

    async def embed(self, digest: str, image: np.ndarray) -> None:
        """Caches the embedding of an image (H, W, 3) uint8; computes nothing if it is cached already.

        Raises:
            ApiError: 422, it cannot be embedded.
        """
        await self._watched(self._slow, self._embedding, digest, image)

    async def prompt(
        self,
        digest: str,
        points: Sequence[tuple[float, float, int]],
        box: tuple[float, float, float, float] | None,
    ) -> PackedRegions:
        """Returns masks, best first. Raises ImageExpired: this replica does not hold the embedding (any more)."""
        embedding = self._cache.get(digest)
        self._metrics.count(embedding is not None, self._cache.nbytes)
        if embedding is None:
            raise ImageExpired(digest)
        packed: PackedRegions = await self._watched(self._quick, self._prompt, embedding, points, box)
        return packed

    async def masks(self, digest: str, image: np.ndarray, seconds: float) -> PackedRegions:
        """Returns a mask for everything in an image that is found in so many seconds from now on."""
        gone, deadline = threading.Event(), time.monotonic() + seconds

        def stop() -> bool:
            return gone.is_set() or time.monotonic() > deadline

        try:
            packed: PackedRegions = await self._watched(self._slow, self._masks, digest, image, stop)
            return packed
        finally:
            gone.set()  # stops work that would hold the thread for seconds

    async def _watched(self, thread: ThreadPoolExecutor, work: Callable[..., Any], *args: Any) -> Any:
        """Runs work in a thread; a failure makes the next health check probe the model."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(thread, work, *args)
        except ApiError:  # the fault of the image
            raise
        except Exception:
            self._encoder_failed |= thread is self._slow
            self._health.failed()
            raise
        self._health.worked()
        return result

    async def _probe(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._quick, self._sam.check)
        if self._encoder_failed:  # the encoder takes seconds, so it is probed only after a failure
            await loop.run_in_executor(self._slow, self._sam.check, True)
            self._encoder_failed = False

    def _embedding(self, digest: str, image: np.ndarray) -> SamEmbedding:
        embedding = self._cache.get(digest)
        self._metrics.count(embedding is not None, self._cache.nbytes)
        if embedding is None:
            try:
                embedding = self._sam.embed(image)
            except UserError as error:
                raise ApiError(422, "unsuitable_image", str(error)) from None
            self._cache.put(digest, embedding)
        return embedding

    def _prompt(
        self,
        embedding: SamEmbedding,
        points: Sequence[tuple[float, float, int]],
        box: tuple[float, float, float, float] | None,
    ) -> PackedRegions:
        try:
            return pack_regions(
                [SamMask(found.mask, found.score) for found in self._sam.prompt(embedding, points, box)]
            )
        except UserError as error:
            raise ApiError(422, "bad_prompt", str(error)) from None

    def _masks(self, digest: str, image: np.ndarray, stop: Callable[[], bool]) -> PackedRegions:
        if stop():  # it has waited in the queue for too long
            return pack_regions([])
        found = self._sam.automatic(self._embedding(digest, image), stop)
        return pack_regions([SamMask(one.mask, one.score) for one in found])
