"""The deployment of CLIP: scores of any names, for a picture and for regions of it."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ray import serve

from foodseg.config.serve import ClipConfig
from foodseg.models.clip import load_clip
from foodseg.predict.device import pick_device
from foodseg.serve.ray_json_logs import log_as_replica
from foodseg.serve.wire import PackedMasks, unpack


@serve.deployment(
    name="Clip",
    max_ongoing_requests=16,
    max_surge_percent=100,
    ray_actor_options={"num_cpus": 0.1},
    health_check_period_s=5,
)
class ClipDeployment:
    """See the protocol `Clip` of `serve/backends.py`, which `RayClip` makes of a handle to this."""

    def __init__(self, config: ClipConfig) -> None:
        log_as_replica()
        self._clip = load_clip(
            config.model, config.weights, pick_device(), quick_gelu=config.quick_gelu, cache_names=config.cache_names
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="clip")

    async def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns one score a name for a picture (H, W, 3) uint8."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._clip.scores, image, names)

    async def mask_scores(self, image: np.ndarray, masks: PackedMasks, names: Sequence[str]) -> list[list[float]]:
        """Returns for each mask one score a name."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._clip.mask_scores, image, unpack(masks), names)
