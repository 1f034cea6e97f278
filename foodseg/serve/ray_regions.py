"""The deployment of the model that names regions: class scores of given regions of an image."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ray import serve

from foodseg.checkpoint.served import HOLD_SECONDS, hold
from foodseg.errors import FoodsegError
from foodseg.serve.health import Health
from foodseg.serve.packing import PackedParts, unpack_parts
from foodseg.serve.protocols import RegionsCard
from foodseg.serve.ray_replica import start_replica
from foodseg.serve.served_regions import ServedRegions

_log = logging.getLogger(__name__)


@serve.deployment(
    name="Regions",
    max_ongoing_requests=16,
    max_surge_percent=100,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.1},
    health_check_period_s=5,
)
class RegionsDeployment:
    """See the protocol `RegionsBackend` of `serve/protocols.py`; `RayRegions` implements it over a handle to this."""

    def __init__(self, card: RegionsCard) -> None:
        start_replica()
        self._uri = card.uri
        self._held_at = -HOLD_SECONDS
        self._model = ServedRegions(card)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="regions")
        self._health = Health(self._probe)

    async def check_health(self) -> None:
        """Serve replaces this replica if it raises."""
        if time.monotonic() - self._held_at > HOLD_SECONDS / 100:
            self._held_at = time.monotonic()
            await asyncio.to_thread(self._hold)
        await self._health.check()

    async def logits(self, image: np.ndarray, packed: PackedParts) -> np.ndarray:
        """Returns (n, K) float32 class scores of the regions of an image (H, W, 3) uint8."""
        loop = asyncio.get_running_loop()
        try:
            logits: np.ndarray = await loop.run_in_executor(self._thread, self._scores, image, packed)
        except Exception:
            self._health.failed()  # the next health check probes the model
            raise
        self._health.worked()
        return logits

    async def _probe(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._model.check)

    def _scores(self, image: np.ndarray, packed: PackedParts) -> np.ndarray:
        return self._model.logits(image, unpack_parts(packed))

    def _hold(self) -> None:
        """Keeps the run from deleting the checkpoint, which a replica that starts later needs."""
        try:
            hold(self._uri)
        except FoodsegError as error:  # such as storage that is read-only here
            _log.warning("cannot hold the checkpoint, so its run may delete it while it is served: %s", error)
