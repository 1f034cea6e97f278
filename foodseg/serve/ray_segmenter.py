"""The deployment that labels images: several checkpoints by name, batches by canvas, hot swap by `user_config`.

A new `user_config` does not restart replicas. Each loads the new checkpoint in the background while the old one
answers, labels an image with it, and notes it in the cluster's memory; from then on the ingress asks for it. Requests
name a checkpoint by `name@sha12`, Serve's multiplexed model id, so that every answer is of the one it was asked of.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray import serve

from foodseg.checkpoint.manifest import HOLD_SECONDS, hold
from foodseg.config.serve import ServeConfig
from foodseg.errors import FoodsegError
from foodseg.serve.batching import Batcher
from foodseg.serve.health import Health
from foodseg.serve.model_store import ModelStore
from foodseg.serve.packing import PackedLabels, pack_labels
from foodseg.serve.protocols import Labelled, ModelState
from foodseg.serve.ray_kv import ClusterMemory
from foodseg.serve.ray_metrics import BatchMetrics
from foodseg.serve.ray_replica import start_replica
from foodseg.serve.served_model import ServedModel

KNOWN_MODELS = 32  # per replica, nearly all of them without weights: these go when a model is replaced
GRACE_SECONDS = 30.0  # for requests that were on their way to a checkpoint when another took its place
RETRY_SECONDS = 30.0  # until storage that stayed away is asked again
_PROBE = (0, 0)  # canvas of what asks whether a model still computes
_log = logging.getLogger(__name__)

Kind = tuple[ServedModel, tuple[int, int], bool]  # what a batch has in common: model, canvas, whether lists came
Item = tuple[np.ndarray, tuple[int, int], tuple[int, ...]]  # image, size of its label map, its list


@serve.deployment(
    name="Segmenter",
    max_ongoing_requests=32,
    max_surge_percent=100,
    graceful_shutdown_wait_loop_s=0.2,  # an idle replica ends at once
    ray_actor_options={"num_cpus": 0.3},
    health_check_period_s=5,
)
class SegmenterDeployment:
    """See the protocol `Segmenter` of `serve/protocols.py`, which `RaySegmenter` makes of a handle to this."""

    def __init__(self, config: ServeConfig, release: str) -> None:
        """release: of the application, see `ClusterMemory`."""
        start_replica()
        self._config = config
        self._store = ModelStore(_open, ClusterMemory(serve.get_replica_context().app_name, release))
        self._batcher = Batcher(self._forward, config.segmenter.max_batch, BatchMetrics().count)
        self._health = Health(self._probe)
        self._holding: asyncio.Task[None] | None = None
        self._serving: dict[str, ServedModel] = {}
        self._loading: asyncio.Task[None] | None = None
        self._retired: set[asyncio.Task[None]] = set()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Takes {"models": {name: checkpoint}, "default": name}; never raises, a bad checkpoint changes nothing.

        A replica that starts waits for its models. One that serves loads them in the background: Serve sends a replica
        no requests while this runs.
        """
        starts = self._loading is None
        if self._loading is not None:
            self._loading.cancel()
        else:
            await self._want(user_config)
        self._loading = asyncio.create_task(self._keep_wanting(user_config, at_once=not starts))
        self._holding = self._holding or asyncio.create_task(self._keep_holding())

    async def check_health(self) -> None:
        """Serve replaces this replica where it raises."""
        await self._health.check()

    async def segment(
        self, image: np.ndarray, size: tuple[int, int], ingredients: tuple[int, ...] | None
    ) -> PackedLabels:
        """Returns the label map of `size` (height, width) of an image (H, W, 3) uint8 at any scale.

        ingredients: ids of what may be on it, for models that are `guided`; None = nobody said.

        Raises:
            UserError: the checkpoint that the request was sent for is not there any more.
        """
        model = await self._model(serve.get_multiplexed_model_id())
        canvas = model.canvas(*size, self._config.segmenter.canvases)
        kind: Kind = (model, canvas, ingredients is not None)
        try:
            labelled: Labelled = await self._batcher.submit(kind, (image, size, ingredients or ()))
        except Exception:
            self._health.failed()
            raise
        self._health.worked()
        return pack_labels(labelled)

    async def models(self) -> list[ModelState]:
        """Returns the state of every model."""
        return await asyncio.to_thread(self._store.states)

    @serve.multiplexed(max_num_models_per_replica=KNOWN_MODELS)
    async def _model(self, model_id: str) -> ServedModel:
        return await asyncio.to_thread(self._store.model, model_id)

    async def _probe(self) -> None:
        for model in list(self._serving.values()):
            await self._batcher.submit((model, _PROBE, False), None)

    def _forward(self, kind: Kind, items: Sequence[Item | None]) -> Sequence[Labelled | None]:
        model, canvas, told = kind
        if canvas == _PROBE:
            model.check()
            return [None] * len(items)
        images, sizes, lists = zip(*(item for item in items if item is not None), strict=True)
        # only CLIP's second opinion on SAM's masks asks for it
        asked = self._config.sam is not None and self._config.clip is not None
        confidence_below = self._config.refine.confidence_below if asked else 0.0
        return model.label(images, sizes, canvas, provided=lists if told else None, confidence_below=confidence_below)

    async def _keep_holding(self) -> None:
        """Renews from time to time that what serves here is not to be deleted by the run that wrote it."""
        while True:
            await asyncio.sleep(HOLD_SECONDS / 100)
            for model in list(self._serving.values()):
                await asyncio.to_thread(_hold, model.card.uri)

    async def _keep_wanting(self, user_config: dict[str, Any], at_once: bool) -> None:
        """Loads what is wanted, again after a while where storage stayed away."""
        if at_once:
            await self._want(user_config)
        while self._store.may_heal:
            await asyncio.sleep(RETRY_SECONDS)
            await self._want(user_config)

    async def _want(self, user_config: dict[str, Any]) -> None:
        ready = await asyncio.to_thread(self._store.want, user_config)
        serving = {}
        for model_id in ready:
            try:
                serving[model_id] = await self._model(model_id)
            except Exception as error:  # the model store shows why; the others serve
                _log.error("model %s: %s", model_id, error)
        replaced = [model for model_id, model in self._serving.items() if model_id not in serving]
        self._serving = serving
        if replaced:
            task = asyncio.create_task(self._release(replaced))
            self._retired.add(task)
            task.add_done_callback(self._retired.discard)

    async def _release(self, models: Sequence[ServedModel]) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        for model in models:
            if model.card.id not in self._serving:
                model.release()


def _open(name: str, uri: str, sha: str) -> ServedModel:
    _hold(uri)
    return ServedModel(name, uri, sha)


def _hold(uri: str) -> None:
    try:
        hold(uri)
    except FoodsegError as error:  # storage that only the run may write to
        _log.warning("the run may delete what is served here, as that cannot be noted there: %s", error)
