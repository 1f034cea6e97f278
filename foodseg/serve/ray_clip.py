"""The deployment of CLIP: scores of any names for an image and its regions, and label maps of any names."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ray import serve

from foodseg.config.serve import ServedClipConfig
from foodseg.predict.refine import Refine
from foodseg.serve.health import Health
from foodseg.serve.packing import PackedLabels, PackedMasks, pack_labels, unpack
from foodseg.serve.protocols import Labelled
from foodseg.serve.ray_replica import start_replica
from foodseg.serve.served_clip import ServedClip


@serve.deployment(
    name="Clip",
    max_ongoing_requests=16,
    max_surge_percent=100,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.1},
    health_check_period_s=5,
)
class ClipDeployment:
    """See the protocol `ClipBackend` of `serve/protocols.py`, which `RayClip` implements over a handle to this."""

    def __init__(self, config: ServedClipConfig) -> None:
        start_replica()
        self._clip = ServedClip(config)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clip")
        self._health = Health(self._probe)

    async def check_health(self) -> None:
        """Serve replaces this replica if it raises."""
        await self._health.check()

    async def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns one score per name for an image (H, W, 3) uint8."""
        scores: list[float] = await self._watched(self._clip.scores, image, names)
        return scores

    async def mask_scores(self, image: np.ndarray, masks: PackedMasks, names: Sequence[str]) -> list[list[float]]:
        """Returns one score per name for each mask."""
        scores: list[list[float]] = await self._watched(self._clip.mask_scores, image, unpack(masks), names)
        return scores

    async def label(
        self, image: np.ndarray, names: Sequence[str], masks: PackedMasks, refine: Refine
    ) -> PackedLabels | None:
        """Returns the label map of an image, see `ClipBackend`."""
        labelled: Labelled | None = await self._watched(self._clip.label, image, names, unpack(masks), refine)
        return None if labelled is None else pack_labels(labelled)

    async def _watched(self, work: Callable[..., Any], *args: Any) -> Any:
        """Runs work in the model's thread; a failure makes the next health check probe the model."""
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        except Exception:
            self._health.failed()
            raise
        self._health.worked()
        return result

    async def _probe(self) -> None:
        grey = np.full((32, 32, 3), 128, np.uint8)
        scores = await asyncio.get_running_loop().run_in_executor(self._thread, self._clip.scores, grey, ["food"])
        if not np.isfinite(scores).all():
            raise RuntimeError("the scores of names are not finite")
