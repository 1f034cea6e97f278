"""The whole HTTP app on a port of its own, for browser tests: fakes that know the right labels of a few images.

with meal_server(classes, [(image, mask)]) as server:
    page.goto(server.url)
"""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import uvicorn

from foodseg.classes import ClassTable
from foodseg.config.serve import ServeConfig, ServedClipConfig
from foodseg.data.regions import Region, true_regions
from foodseg.serve.embedding_cache import image_digest
from foodseg.serve.http.api import make_api
from foodseg.serve.http.api_keys import Keys
from foodseg.serve.protocols import (
    Backends,
    Doubtful,
    ImageExpired,
    Labelled,
    ModelState,
    RegionsCard,
    SamMask,
    SecondLook,
)

SHA = "3f" * 32


@dataclass
class KnownImages:
    """Label maps by image. known: (H, W, 3) uint8 RGB and (H, W) uint8 ids of `classes` each."""

    classes: tuple[str, ...]
    known: Sequence[tuple[np.ndarray, np.ndarray]]

    def mask_of(self, image: np.ndarray) -> np.ndarray:
        """Returns the mask of the nearest known image of this size; background for an unknown image."""
        same = [(known, mask) for known, mask in self.known if known.shape == image.shape]
        if not same:
            return np.zeros(image.shape[:2], np.uint8)
        return min(same, key=lambda pair: np.abs(pair[0].astype(int) - image).mean())[1]


def confidence_of(index: int) -> float:
    """Returns the confidence of the fake for an id: some above and some below a half."""
    return 0.35 + 0.06 * (index * 7 % 11)


@dataclass
class FakeSegmenter:
    """Answers with the right labels; if ingredients are provided, only those."""

    images: KnownImages
    conditioned: bool = True
    trained: bool = True

    async def segment(
        self,
        image: np.ndarray,
        model: str,
        ingredients: tuple[int, ...] | None,
        masks: Sequence[np.ndarray] = (),
        second_look: SecondLook | None = None,
    ) -> Labelled:
        ids = self.images.mask_of(image)
        if ingredients is not None:
            ids = np.where(np.isin(ids, ingredients), ids, 0).astype(np.uint8)
        confidences = {index: confidence_of(index) for index in np.unique(ids).tolist()}
        doubtful = None
        if second_look is not None:
            regions = true_regions(ids, ClassTable(self.images.classes), least_share=second_look.least_share)
            equal = np.full((len(regions), len(self.images.classes)), 1 / len(self.images.classes), np.float32)
            doubtful = Doubtful(regions, tuple(confidence_of(region.label) for region in regions), equal)
        return Labelled(ids, None, confidences, model.partition("@")[0], SHA, doubtful)

    async def label_names(
        self, image: np.ndarray, model: str, names: Sequence[str], masks: Sequence[np.ndarray], refine: str
    ) -> Labelled:
        raise NotImplementedError("no model of these has an open vocabulary")

    async def models(self) -> list[ModelState]:
        if not self.trained:
            return []
        return [ModelState("meals", "runs/meals", "runs/meals", SHA, None, self.images.classes, True, self.conditioned)]


def piece_at(ids: np.ndarray, x: int, y: int) -> np.ndarray:
    """Returns (H, W) bool: the connected piece of one id that holds a pixel."""
    _, pieces = cv2.connectedComponents((ids == ids[y, x]).astype(np.uint8))
    return pieces == pieces[y, x]


@dataclass
class FakeClip:
    """Gives all names the same score, and finds those that are names of the classes where they are."""

    images: KnownImages | None = None

    async def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        return [1 / len(names)] * len(names)

    async def mask_scores(
        self, image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str]
    ) -> list[list[float]]:
        return [[1 / len(names)] * len(names) for _ in masks]

    async def label(
        self, image: np.ndarray, names: Sequence[str], masks: Sequence[np.ndarray], refine: str
    ) -> Labelled | None:
        ids = np.zeros(image.shape[:2], np.uint8)
        if self.images is not None:
            truth, classes = self.images.mask_of(image), self.images.classes
            for index, name in enumerate(names, start=1):
                if name in classes:
                    ids[truth == classes.index(name)] = index
        return Labelled(ids, None, dict.fromkeys(range(len(names) + 1), 0.5), "clip", "")


@dataclass
class FakeSam:
    """Outlines the piece under the points after `delay` seconds; can forget every image."""

    images: KnownImages
    remembered: dict[str, np.ndarray] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    delay: float = 0.0

    async def embed(self, image: np.ndarray) -> str:
        self.calls.append("embed")
        digest = image_digest(image)
        self.remembered[digest] = image
        return digest

    async def prompt(
        self,
        digest: str,
        points: Sequence[tuple[float, float, int]],
        box: tuple[float, float, float, float] | None,
    ) -> list[SamMask]:
        self.calls.append("prompt")
        if digest not in self.remembered:
            raise ImageExpired
        await asyncio.sleep(self.delay)
        ids = self.images.mask_of(self.remembered[digest])
        piece, whole = np.zeros(ids.shape, bool), np.zeros(ids.shape, bool)
        for x, y, label in points:
            own = piece_at(ids, int(x), int(y))
            piece = piece | own if label else piece & ~own
            whole |= ids == ids[int(y), int(x)]
        grown = cv2.dilate(piece.astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
        found = [SamMask(piece, 0.97), SamMask(grown, 0.9), SamMask(whole, 0.8)]
        return found if len(points) == 1 else found[:1]

    async def masks(self, image: np.ndarray, seconds: float) -> list[SamMask]:
        ids = self.images.mask_of(image)
        return [SamMask(ids == index, 0.9) for index in np.unique(ids)]


@dataclass
class FakeRefine:
    """Agrees with the segmenter."""

    async def vote(self, image: np.ndarray, labelled: Labelled, names: Sequence[str]) -> Labelled:
        return labelled


class FakeRegions:
    """Says of every region that it is the last class."""

    def __init__(self, images: KnownImages) -> None:
        self.card = RegionsCard("runs/roi", SHA, images.classes, 0.001, True)

    async def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        assert all(region.mask.shape == image.shape[:2] and region.mask.any() for region in regions)
        return np.tile(np.arange(len(self.card.classes), dtype=np.float32), (len(regions), 1))


@dataclass(frozen=True)
class Scripted:
    """An answer that replaces the one of the server."""

    status: int
    body: bytes
    media_type: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


class MealServer:
    """Runs the app on 127.0.0.1 in a thread. `scripted[path]` is a list of answers, used up one a request."""

    def __init__(self, app: Any, segmenter: FakeSegmenter, sam: FakeSam) -> None:
        self.app, self.segmenter, self.sam = app, segmenter, sam
        self.scripted: dict[str, list[Scripted]] = {}
        config = uvicorn.Config(
            self._answer, host="127.0.0.1", port=0, log_level="warning", lifespan="off", interface="asgi3"
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> "MealServer":
        self.thread.start()
        end = time.monotonic() + 30
        while not self.server.started:
            assert time.monotonic() < end and self.thread.is_alive(), "the page's server did not start"
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}/"
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if not self.scripted.get(path):
            await self.app(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        answer = self.scripted[path].pop(0)
        headers = [(b"content-type", answer.media_type), *answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})


def meal_server(
    classes: ClassTable,
    meals: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    conditioned: bool = True,
    sam: bool = True,
    clip: bool = False,
    trained: bool = True,
    keys: Keys | None = None,
) -> MealServer:
    """Returns a server, not started yet, that knows these meals.

    meals: (H, W, 3) uint8 RGB and (H, W) uint8 ids of `classes` each. conditioned: it takes ingredients. sam, clip: SAM
    and CLIP are configured. trained: there is a trained model. keys: that are let in, None = everybody.
    """
    images = KnownImages(classes.names, meals)
    segmenter, outlines = FakeSegmenter(images, conditioned=conditioned, trained=trained), FakeSam(images)
    names = FakeClip(images) if clip else None
    backends = Backends(segmenter, outlines if sam else None, names, FakeRefine() if sam else None)
    config = ServeConfig(clip=ServedClipConfig(model="tiny-clip") if clip else None)
    return MealServer(make_api(config, backends, secret=b"secret", keys=keys), segmenter, outlines)
