"""The deployment that redraws label maps along SAM's masks; it calls Sam and Clip, and holds no model itself."""

from collections.abc import Sequence

import numpy as np
from ray import serve
from ray.serve.handle import DeploymentHandle

from foodseg.config.serve import RefineConfig
from foodseg.serve.packing import PackedLabels, pack_labels, unpack_labels
from foodseg.serve.ray_handles import RayClip, RaySam
from foodseg.serve.ray_replica import start_replica
from foodseg.serve.refine import vote


@serve.deployment(
    name="Refine",
    max_ongoing_requests=16,
    max_surge_percent=100,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.05},
    health_check_period_s=5,
)
class RefineDeployment:
    """See the protocol `RefineBackend` of `serve/protocols.py`, which `RayRefine` implements over a handle to this."""

    def __init__(self, config: RefineConfig, sam: DeploymentHandle, clip: DeploymentHandle | None) -> None:
        start_replica()
        self._config = config
        self._sam = RaySam(sam)
        self._clip = None if clip is None else RayClip(clip)

    async def vote(self, image: np.ndarray, packed: PackedLabels, names: Sequence[str]) -> PackedLabels | None:
        """Returns the label map of an image (H, W, 3) uint8, of the same size, redrawn."""
        voted = await vote(image, unpack_labels(packed), names, self._config, self._sam, self._clip)
        return None if voted is None else pack_labels(voted)
