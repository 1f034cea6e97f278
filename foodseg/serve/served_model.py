"""One checkpoint as the endpoint serves it: opened, warmed up, answering batches of images with label maps.

model = ServedModel("meals", uri, checkpoint_sha(uri))
(labelled,) = model.label([image], [(height, width)], model.canvas(height, width, canvases))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from foodseg import storage
from foodseg.checkpoint.checkpoint import Checkpoint, calibration_of, load_checkpoint, load_model
from foodseg.checkpoint.manifest import sha256
from foodseg.errors import UserError
from foodseg.models.segmenter import Segmenter
from foodseg.predict.canvas_batch import BatchPredictor, pick_canvas
from foodseg.predict.device import pick_device
from foodseg.predict.label import mean_confidences
from foodseg.serve.protocols import Labelled, model_id

CERTAIN = np.iinfo(np.uint16).max
_TINY = 64  # pixels of a side, or a little more, of what shows that the model still computes
_BLANK = 512  # pixels of a side of the first image, where the model takes any


@dataclass(frozen=True)
class ModelCard:
    """What is known of a checkpoint without its weights; plain JSON, so that it outlives the process.

    uri: the checkpoint directory. sha: sha256 (hex) of its manifest, which holds that of every file.
    guided: takes a list of ingredients. longest_side: pixels of the longer side at which the model sees images;
    None = their own.
    """

    name: str
    uri: str
    sha: str
    classes: tuple[str, ...]
    guided: bool
    longest_side: int | None

    @property
    def id(self) -> str:
        """Under which requests find it, `meals@0a1b2c3d4e5f`."""
        return model_id(self.name, self.sha)


def checkpoint_sha(uri: str) -> str:
    """Returns the sha256 (hex) of the manifest of a checkpoint directory. UserError: there is none."""
    return sha256(storage.read_bytes(storage.join(uri, "manifest.json")))


class _Loaded(NamedTuple):
    """The weights, shown to an image without and with a list of ingredients."""

    untold: BatchPredictor
    told: BatchPredictor
    temperature: float


class ServedModel:
    """`label` is not safe to call from several threads at once; the rest is."""

    def __init__(self, name: str, uri: str, sha: str) -> None:
        """Loads a checkpoint directory and labels a blank image with it.

        Raises:
            UserError: it is torn, not the one of this sha, or does not run. RetryLater: storage stays away.
        """
        self._uri, self._sha = uri, sha
        checkpoint = self._checkpoint()
        model = load_model(checkpoint, checkpoint.config.eval.weights)
        self._eval, self._multiple = checkpoint.config.eval, model.size_multiple
        guided = model.fusion is not None
        self.card = ModelCard(name, uri, sha, checkpoint.classes.names, guided, self._eval.longest_side)
        self._loaded: _Loaded | None = _loaded(checkpoint, model)
        self._warm_up()

    def canvas(self, height: int, width: int, canvases: Sequence[tuple[int, int]]) -> tuple[int, int]:
        """Returns the (height, width) that an image of this size is padded to; only equal ones share a batch."""
        return pick_canvas(self._eval, self._multiple, height, width, canvases)

    def label(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        canvas: tuple[int, int],
        *,
        provided: Sequence[Sequence[int]] | None = None,
        confidence_below: float = 0.0,
    ) -> list[Labelled]:
        """Returns the label map of each image.

        Args:
            images: (H, W, 3) uint8 RGB each, at any scale. sizes: (height, width) of the label map of each.
            canvas: of all of them. provided: ids that may be on each; None = nobody said.
            confidence_below: confidence in [0, 1] below which a pixel has low confidence; 0 = do not say.
        """
        loaded = self._loaded
        if loaded is None:  # released, and asked for once more
            checkpoint = self._checkpoint()
            loaded = self._loaded = _loaded(checkpoint, load_model(checkpoint, self._eval.weights))
        predictor = loaded.untold if provided is None else loaded.told
        answers = []
        for logits in predictor.logits(images, sizes, canvas, provided):
            ids, confidence = logits.ids_and_confidence(loaded.temperature)
            means = mean_confidences(ids, confidence, len(self.card.classes))
            confidences = {index: float(means[index]) for index in np.flatnonzero(means).tolist()}
            low_confidence = confidence < confidence_below * CERTAIN if confidence_below else None
            answers.append(Labelled(ids, low_confidence, confidences, self.card.name, self.card.sha))
        return answers

    def check(self) -> None:
        """Computes the smallest image that the model takes; nothing while its weights are given back.

        Raises:
            RuntimeError, or whatever a broken model ends with.
        """
        loaded = self._loaded
        if loaded is not None:
            loaded.untold.probe(-(-_TINY // self._multiple) * self._multiple)

    def release(self) -> None:
        """Gives the memory of the weights back; a later `label` loads them again."""
        self._loaded = None

    def _checkpoint(self) -> Checkpoint:
        checkpoint = load_checkpoint(self._uri)
        if checkpoint_sha(self._uri) != self._sha:
            raise UserError(f"the checkpoint {storage.redact(self._uri)} has changed since it was served")
        return checkpoint

    def _warm_up(self) -> None:
        """Labels a blank image, so that no request waits for kernels, and a model that cannot run never serves."""
        side = self.card.longest_side or _BLANK
        blank = np.full((side, side, 3), 128, np.uint8)
        try:
            self.label([blank], [(side, side)], self.canvas(side, side, ()))
        except (RuntimeError, AssertionError) as error:
            detail = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the checkpoint {storage.redact(self._uri)} loads, but does not label an image ({detail[:200]})"
            ) from None


def _loaded(checkpoint: Checkpoint, model: Segmenter) -> _Loaded:
    """The checkpoint decides how images without a list are taken; a checkpoint for lists alone takes all names."""
    config, precision = checkpoint.config.eval, checkpoint.config.train.precision
    untold = config
    if config.ingredients == "provided":
        untold = config.model_copy(update={"ingredients": "vocabulary", "restrict": "none"})
    told = config.model_copy(update={"ingredients": "provided"})
    calibration = calibration_of(checkpoint, config)
    device = pick_device()
    return _Loaded(
        BatchPredictor(model, untold, device, precision),
        BatchPredictor(model, told, device, precision),
        calibration.temperature if calibration else 1.0,
    )
