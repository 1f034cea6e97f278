"""Protocols of the deployments behind the HTTP ingress; Ray handles and plain fakes both implement them.

Every call is a coroutine. Images travel as contiguous (H, W, 3) uint8 RGB, decoded once by the ingress; id maps and
masks come back, of given regions a row of class scores each, never the logits of a map. A backend that is not
configured is None.

Shape letters: H, W of the image that is passed in, which is the client's own within `image.longest_side`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from foodseg.data.regions import Region

SHA_DIGITS = 12  # of a checkpoint's sha256, in the id under which requests find it


def model_id(name: str, sha: str) -> str:
    """Returns the public name and the first digits of the sha, `meals@0a1b2c3d4e5f`."""
    return f"{name}@{sha[:SHA_DIGITS]}"


class ImageExpired(Exception):
    """The embedding of an image is no longer in the cache; the client must send the image again."""


@dataclass(frozen=True)
class SecondLook:
    """Which regions of a label map to look at again.

    below: mean confidence, 0 to 1. least_share: of the image; smaller regions are left out.
    """

    below: float
    least_share: float


@dataclass(frozen=True, eq=False)
class Doubtful:
    """The regions of a label map with a low mean confidence, n connected parts, which do not overlap.

    regions: with their id as label. confidences: n means, 0 to 1. probabilities: (n, K) float32, of the segmenter, by
    its mean logits over each.
    """

    regions: Sequence[Region]
    confidences: tuple[float, ...]
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class Labelled:
    """The label map of one image.

    ids: (H, W) uint8 or uint16, 0 = background.
    low_confidence: (H, W) bool, True where the confidence is low; None if it was not requested.
    confidences: calibrated mean confidence in [0, 1] of the pixels of each id present.
    model, sha: public name and sha256 (hex) of the checkpoint that answered.
    doubtful: what to look at again; None if it was not requested.
    """

    ids: np.ndarray
    low_confidence: np.ndarray | None
    confidences: dict[int, float]
    model: str
    sha: str
    doubtful: Doubtful | None = None


@dataclass(frozen=True, eq=False)
class SamMask:
    """One region. mask: (H, W) bool. score: predicted IoU, about 0 to 1."""

    mask: np.ndarray
    score: float


@dataclass(frozen=True)
class ModelState:
    """One public model name.

    wanted, serving: URIs of the wanted checkpoint and of the one that answers (None: not loaded yet), without secrets.
    sha: sha256 (hex) of the one that answers. error: why `wanted` does not serve, one sentence, or None.
    classes: its names, id by id. default: answers where the client names no model.
    conditioned: it can be conditioned on ingredients.
    longest_side: pixels of the longer side at which it sees images; None = their own, or several sizes.
    open_vocabulary: it takes other names than its classes.
    """

    name: str
    wanted: str
    serving: str | None
    sha: str | None
    error: str | None
    classes: tuple[str, ...]
    default: bool
    conditioned: bool = False
    longest_side: int | None = None
    open_vocabulary: bool = False


@dataclass(frozen=True)
class RegionsCard:
    """The model that names regions.

    uri: its checkpoint, without secrets. sha: sha256 (hex) of it. classes: names, id by id. least_share: of the image;
    it has learned no smaller regions. looks_again: it is a region classifier, which may be asked for a second look.
    """

    uri: str
    sha: str
    classes: tuple[str, ...]
    least_share: float
    looks_again: bool


class SegmenterBackend(Protocol):
    """Labels images with one of several models."""

    async def segment(
        self,
        image: np.ndarray,
        model: str,
        ingredients: tuple[int, ...] | None,
        masks: Sequence[np.ndarray] = (),
        second_look: SecondLook | None = None,
    ) -> Labelled:
        """Returns the label map.

        model: `name@sha12`. ingredients: ids of the conditioning classes, None = none. masks: (H, W) bool each, of
        which each gets the class with the greatest mean logit. second_look: which regions are listed as doubtful.
        """

    async def label_names(
        self, image: np.ndarray, model: str, names: Sequence[str], masks: Sequence[np.ndarray], refine: str
    ) -> Labelled:
        """As `ClipBackend.label`, by a model with an open vocabulary, `name@sha12`."""

    async def models(self) -> list[ModelState]:
        """Returns the state of every model."""


class SamBackend(Protocol):
    """Segment Anything. Coordinates are x, y in pixels of the image that was sent to `embed`."""

    async def embed(self, image: np.ndarray) -> str:
        """Returns the digest (lower-case hex) of the image's content, under which its embedding is cached."""

    async def prompt(
        self,
        digest: str,
        points: Sequence[tuple[float, float, int]],
        box: tuple[float, float, float, float] | None,
    ) -> list[SamMask]:
        """Returns masks for points (x, y, 1 = in or 0 = out) and a box (x0, y0, x1, y1). Raises ImageExpired."""

    async def masks(self, image: np.ndarray, seconds: float) -> list[SamMask]:
        """Returns a mask for everything in the image, as far as that is found in so many seconds."""


class ClipBackend(Protocol):
    """Compares any names with images; scores are a softmax over the names, 0 to 1."""

    async def scores(self, image: np.ndarray, names: Sequence[str]) -> list[float]:
        """Returns one score per name for the whole image."""

    async def mask_scores(
        self, image: np.ndarray, masks: Sequence[np.ndarray], names: Sequence[str]
    ) -> list[list[float]]:
        """Returns one score per name for each (H, W) bool mask."""

    async def label(
        self, image: np.ndarray, names: Sequence[str], masks: Sequence[np.ndarray], refine: str
    ) -> Labelled | None:
        """Returns a label map, id i is the i-th name from 1 on, 0 what fits none; None: this CLIP has no patches.

        refine: how it is redrawn along the masks, (H, W) bool each: none, vote or soft.
        """


class RefineBackend(Protocol):
    """The SAM vote over a label map, with CLIP's second opinion where it is configured."""

    async def vote(self, image: np.ndarray, labelled: Labelled, names: Sequence[str]) -> Labelled | None:
        """Returns the label map redrawn along SAM's masks; None where no mask was found in time.

        names: of the model's classes, id by id.
        """


class RegionsBackend(Protocol):
    """Names regions of an image whose masks are known."""

    card: RegionsCard

    async def logits(self, image: np.ndarray, regions: Sequence[Region]) -> np.ndarray:
        """Returns (n, K) float32 class scores of n regions, whose masks are (H, W); their labels do not count."""


@dataclass(frozen=True)
class Backends:
    """All deployments that the ingress calls; None: not configured."""

    segmenter: SegmenterBackend
    sam: SamBackend | None = None
    clip: ClipBackend | None = None
    refine: RefineBackend | None = None
    regions: RegionsBackend | None = None
