"""The Ray Serve application: an ingress that decodes each image once and calls the other deployments by handle.

    serve run serve_configs/local.yaml          # or: foodseg serve serve_configs/local.yaml, serve deploy ...

    Ingress -> Segmenter
            -> Refine -> Sam, Clip
            -> Sam
            -> Clip
            -> Regions

A backend without a section in the configuration is not started. `build` is the application builder that YAML files
name; replicas, CPUs and GPUs are set there for each deployment.
"""

import os
import secrets
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from foodseg.cluster.ray_internals.serve import listening_host
from foodseg.config.serve import HttpConfig, ServeConfig, parse_serve_config
from foodseg.serve.http.api import make_api
from foodseg.serve.http.api_keys import keys_for
from foodseg.serve.http.codec import TINY_IMAGE, read_image
from foodseg.serve.http.json_logs import log_json_to_stderr
from foodseg.serve.http.middleware import Guard
from foodseg.serve.protocols import Backends, RegionsCard
from foodseg.serve.ray_handles import RayClip, RayRefine, RayRegions, RaySam, RaySegmenter
from foodseg.serve.ray_metrics import RequestMetrics
from foodseg.serve.ray_replica import listen_as_the_node_does

SECRET = "FOODSEG_SERVE_SECRET"


@serve.deployment(
    name="Ingress",
    max_ongoing_requests=1000,  # the limit that a client meets is that of Guard
    max_surge_percent=100,
    graceful_shutdown_wait_loop_s=0.2,
    ray_actor_options={"num_cpus": 0.1},
    health_check_period_s=5,
)
@serve.ingress()
class Ingress:
    """The HTTP application (middleware, codec and routes); it holds no model."""

    def __init__(
        self,
        config: ServeConfig,
        secret: bytes,
        segmenter: DeploymentHandle,
        sam: DeploymentHandle | None = None,
        clip: DeploymentHandle | None = None,
        refine: DeploymentHandle | None = None,
        regions: DeploymentHandle | None = None,
        regions_card: RegionsCard | None = None,
    ) -> None:
        listen_as_the_node_does()
        log_json_to_stderr()
        self._config = config
        self._secret = secret
        self._backends = Backends(
            RaySegmenter(segmenter),
            None if sam is None else RaySam(sam),
            None if clip is None else RayClip(clip),
            None if refine is None else RayRefine(refine),
            None if regions is None or regions_card is None else RayRegions(regions, regions_card),
        )

    def __serve_build_asgi_app__(self) -> Guard:
        self._guard = make_api(
            self._config,
            self._backends,
            secret=self._secret,
            keys=keys_for(_listening(self._config.http), os.environ),
            on_finish=RequestMetrics().count,
            announce_request_id=False,
        )
        return self._guard

    async def check_health(self) -> None:
        """Decodes a tiny image. The models have health checks of their own, which must not take the ingress down."""
        read_image(TINY_IMAGE, self._config.image)

    async def drain(self, seconds: float) -> int:
        """Refuses new requests from now on; returns how many are in flight after at most so many seconds."""
        return await self._guard.drain(seconds)


def build(args: dict[str, Any]) -> Application:
    """Builds the application from the `args` of a Serve YAML file, the sections of `ServeConfig`.

    Raises:
        UserError: an unknown key, a value out of range, an address that needs API keys without any; as `regions_card`.
    """
    config = parse_serve_config(args)
    keys_for(_listening(config.http), os.environ)  # else an error would be only in the log of the ingress
    # heavy: torch and the models' packages
    from foodseg.serve.ray_segmenter import SegmenterDeployment

    models = {"models": dict(config.segmenter.models), "default": config.segmenter.default}
    # a new release: the name of a run is pinned once per deployment, and replicas that start later use that
    segmenter = _bound(SegmenterDeployment, config, secrets.token_hex(8), user_config=models)
    sam = clip = refine = None
    if config.clip is not None:
        from foodseg.serve.ray_clip import ClipDeployment

        clip = _bound(ClipDeployment, config.clip)
    if config.sam is not None:
        from foodseg.serve.ray_refine import RefineDeployment
        from foodseg.serve.ray_sam import SamDeployment

        sam = _bound(SamDeployment, config.sam)
        refine = _bound(RefineDeployment, config.refine, sam, clip)
    regions = card = None
    if config.regions is not None:
        from foodseg.serve.ray_regions import RegionsDeployment
        from foodseg.serve.served_regions import regions_card

        card = regions_card(config.regions.model)
        regions = _bound(RegionsDeployment, card)
    secret = os.environ.get(SECRET, "").encode() or secrets.token_bytes(32)
    return _bound(Ingress, config, secret, segmenter, sam, clip, refine, regions, card)


def _bound(deployment: Any, *arguments: Any, **options: Any) -> Application:
    # mypy loses the type of a class decorator and takes deployments for plain classes
    application: Application = deployment.options(**options).bind(*arguments)
    return application


def _listening(config: HttpConfig) -> HttpConfig:
    """Returns the settings with the address that Serve's proxies listen on, which may differ from the deploy file."""
    host = listening_host()  # None in `serve run` before it connects
    return config if host is None else config.model_copy(update={"host": host})
