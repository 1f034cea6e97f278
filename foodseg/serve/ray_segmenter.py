"""The deployment that labels images: several checkpoints by name, batches by canvas, hot swap by `user_config`.

A new `user_config` does not restart replicas. Each loads the new checkpoint in the background while the old one
answers, labels an image with it, and records it in the cluster; from then on the ingress requests it.
A request names a checkpoint by `name@sha12`, Serve's multiplexed model id, so that exactly that checkpoint answers.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from ray import serve

from foodseg.checkpoint.served import HOLD_SECONDS, hold
from foodseg.config.serve import ServeConfig
from foodseg.errors import FoodsegError
from foodseg.predict.refine import Refine
from foodseg.serve.batching import Batcher
from foodseg.serve.health import Health
from foodseg.serve.model_store import ModelStore
from foodseg.serve.packing import PackedLabels, PackedMasks, pack_labels, unpack
from foodseg.serve.protocols import Labelled, ModelState, SecondLook
from foodseg.serve.ray_kv import ClusterKnownModels
from foodseg.serve.ray_metrics import BatchMetrics
from foodseg.serve.ray_replica import start_replica
from foodseg.serve.served_model import ServedModel

KNOWN_MODELS = 32  # per replica; most hold no weights, since a replaced model releases them
GRACE_SECONDS = 30.0  # for requests that still name a checkpoint after it was replaced
RETRY_SECONDS = 30.0  # until storage that did not answer is retried
_PROBE = (0, 0)  # the canvas that marks a health check
_NAMES = (0, 1)  # and one that marks images with names of their own, which share no forward pass
_log = logging.getLogger(__name__)

Kind = tuple[ServedModel, tuple[int, int], bool]  # what a batch shares: model, canvas, whether conditioned
# image, size of its label map, its conditioning classes, masks of it, what to look at again
Item = tuple[np.ndarray, tuple[int, int], tuple[int, ...], Sequence[np.ndarray], SecondLook | None]


@serve.deployment(
    name="Segmenter",
    max_ongoing_requests=32,
    max_surge_percent=100,
    graceful_shutdown_wait_loop_s=0.2,  # an idle replica ends at once
    ray_actor_options={"num_cpus": 0.3},
    health_check_period_s=5,
)
class SegmenterDeployment:
    """See the protocol `SegmenterBackend` of `serve/protocols.py`; `RaySegmenter` implements it over a handle."""

    def __init__(self, config: ServeConfig, release: str) -> None:
        """release: of the application, see `ClusterKnownModels`."""
        start_replica()
        self._config = config
        self._store = ModelStore(self._open, ClusterKnownModels(serve.get_replica_context().app_name, release))
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
        """Serve replaces this replica if it raises."""
        await self._health.check()

    async def segment(
        self,
        image: np.ndarray,
        size: tuple[int, int],
        ingredients: tuple[int, ...] | None,
        masks: PackedMasks | None = None,
        second_look: SecondLook | None = None,
    ) -> PackedLabels:
        """Returns the label map of `size` (height, width) of an image (H, W, 3) uint8 at any scale.

        ingredients: ids of the conditioning classes, for models that are `conditioned`; None = not provided.
        masks: of the image, which get the class with the greatest mean logit. second_look: which regions to list.

        Raises:
            UserError: the checkpoint that the request names is not there any more.
        """
        model = await self._model(serve.get_multiplexed_model_id())
        kind: Kind = (model, model.canvas(*size), ingredients is not None)
        try:
            regions = () if masks is None else await asyncio.to_thread(unpack, masks)
            item: Item = (image, size, ingredients or (), regions, second_look)
            labelled: Labelled = await self._batcher.submit(kind, item)
        except Exception:
            self._health.failed()
            raise
        self._health.worked()
        return pack_labels(labelled)

    async def label_names(
        self, image: np.ndarray, names: list[str], masks: PackedMasks | None, refine: Refine
    ) -> PackedLabels:
        """Returns the label map of an image (H, W, 3) uint8 for other names than the model's classes.

        Raises:
            UserError: as `ServedModel.label_names`; the checkpoint that the request names is not there any more.
        """
        model = await self._model(serve.get_multiplexed_model_id())
        await asyncio.to_thread(model.know, names)  # not in the thread that others wait for
        regions = [] if masks is None else await asyncio.to_thread(unpack, masks)
        return pack_labels(await self._batcher.submit((model, _NAMES, False), (image, names, regions, refine)))

    async def models(self) -> list[ModelState]:
        """Returns the state of every model."""
        return await asyncio.to_thread(self._store.states)

    @serve.multiplexed(max_num_models_per_replica=KNOWN_MODELS)
    async def _model(self, model_id: str) -> ServedModel:
        return await asyncio.to_thread(self._store.model, model_id)

    def _open(self, name: str, uri: str, sha: str) -> ServedModel:
        _hold(uri)
        return ServedModel(name, uri, sha, self._config.segmenter.canvases, self._config.segmenter.runtime)

    async def _probe(self) -> None:
        for model in list(self._serving.values()):
            await self._batcher.submit((model, _PROBE, False), None)

    def _forward(self, kind: Kind, items: Sequence[Any]) -> Sequence[Labelled | None]:
        model, canvas, conditioned = kind
        if canvas == _PROBE:
            model.check()
            return [None] * len(items)
        if canvas == _NAMES:
            return [model.label_names(*item) for item in items]
        labelled: Sequence[Item] = items
        images, sizes, provided, masks, looks = zip(*labelled, strict=True)
        # only CLIP's second opinion on SAM's masks needs the low-confidence pixels
        needed = self._config.sam is not None and self._config.clip is not None
        confidence_below = self._config.refine.confidence_below if needed else 0.0
        conditioning = provided if conditioned else None
        return model.label(
            images, sizes, provided=conditioning, masks=masks, confidence_below=confidence_below, second_looks=looks
        )

    async def _keep_holding(self) -> None:
        """Renews the holds, which keep the runs from deleting the checkpoints that serve here."""
        while True:
            await asyncio.sleep(HOLD_SECONDS / 100)
            for model in list(self._serving.values()):
                await asyncio.to_thread(_hold, model.card.uri)

    async def _keep_wanting(self, user_config: dict[str, Any], at_once: bool) -> None:
        """Loads what is wanted, and retries after a while if storage did not answer."""
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


def _hold(uri: str) -> None:
    try:
        hold(uri)
    except FoodsegError as error:  # such as storage that is read-only here
        _log.warning("cannot hold the checkpoint, so its run may delete it while it is served: %s", error)
