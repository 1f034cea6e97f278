"""One checkpoint as the endpoint serves it: loaded, warmed up, labelling batches of images.

model = ServedModel("meals", uri, checkpoint_sha(uri))
(labelled,) = model.label([image], [(height, width)])
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from foodseg import storage
from foodseg.checkpoint.checkpoint import Checkpoint, calibration_of, load_checkpoint, load_model
from foodseg.checkpoint.hub import local_checkpoint
from foodseg.checkpoint.index_file import index_file
from foodseg.checkpoint.manifest import FILE, sha256
from foodseg.classes import ClassTable
from foodseg.errors import UserError
from foodseg.models.build import Network
from foodseg.models.clip.names import parse_names
from foodseg.models.exported import ExportedNetwork, Runtime
from foodseg.models.open_vocabulary import OpenVocabularyNetwork
from foodseg.predict.canvas import pick_canvas
from foodseg.predict.device import pick_device
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.ingredients import mean_confidences
from foodseg.predict.other_names import eval_of_names, named_network
from foodseg.predict.predictor import Predictor
from foodseg.predict.recheck import doubtful_regions, segmenter_probabilities
from foodseg.predict.refine import Refine, refine_labels
from foodseg.serve.protocols import Doubtful, Labelled, SecondLook, model_id

CERTAIN = np.iinfo(np.uint16).max
NAMES_KEPT = 8  # lists of other names whose embeddings are not computed again
_TINY = 64  # pixels of a side, or a little more, of the image of the health check
_BLANK = 512  # pixels of a side of the warm-up image, where the model takes any size


@dataclass(frozen=True)
class ModelCard:
    """What is known of a checkpoint without its weights; plain JSON, so that it outlives the process.

    uri: the checkpoint directory. sha: sha256 (hex) of its manifest, which holds that of every file.
    conditioned: it can be conditioned on ingredients. longest_side: pixels of the longer side at which it sees images;
    None = their own, or several sizes. open_vocabulary: it takes other names than its classes.
    """

    name: str
    uri: str
    sha: str
    classes: tuple[str, ...]
    conditioned: bool
    longest_side: int | None
    open_vocabulary: bool = False

    @property
    def id(self) -> str:
        """The id by which requests name it, `meals@0a1b2c3d4e5f`."""
        return model_id(self.name, self.sha)


def checkpoint_sha(uri: str) -> str:
    """Returns the sha256 (hex) of the manifest of a checkpoint directory, or of the model.json of an exported model.

    Raises:
        UserError: it has neither.
    """
    folder = local_checkpoint(uri)
    return sha256(storage.read_bytes(storage.join(folder, index_file(folder) or FILE)))


def labelled_of(
    ids: np.ndarray, confidence: np.ndarray, classes: int, model: str, sha: str, confidence_below: float = 0.0
) -> Labelled:
    """Returns a label map with the mean confidence of each id.

    Args:
        confidence: (H, W) uint16, 65535 = certain. confidence_below: as for `ServedModel.label`.
    """
    means = mean_confidences(ids, confidence, classes)
    confidences = {index: float(means[index]) for index in np.flatnonzero(means).tolist()}
    low_confidence = confidence < confidence_below * CERTAIN if confidence_below else None
    return Labelled(ids, low_confidence, confidences, model, sha)


class _Loaded(NamedTuple):
    """The weights, as predictors for images without and with provided ingredients; both pick the same canvas."""

    unconditioned: Predictor
    conditioned: Predictor
    temperature: float
    named: Callable[[tuple[str, ...]], Predictor]


class ServedModel:
    """`label` is not safe to call from several threads at once; the rest is."""

    def __init__(
        self,
        name: str,
        uri: str,
        sha: str,
        canvases: Sequence[tuple[int, int]] = (),
        runtime: Runtime | None = None,
    ) -> None:
        """Loads a checkpoint directory and labels a blank image with it.

        Args:
            canvases: as for `Predictor`. runtime: as for `load_model`.

        Raises:
            UserError: it is damaged, has another sha, or does not run. RetryLater: storage does not answer.
        """
        self._uri, self._sha, self._canvases, self._runtime = uri, sha, canvases, runtime
        checkpoint = self._checkpoint()
        model = load_model(checkpoint, checkpoint.config.eval.weights, runtime)
        self._config, self._multiple = checkpoint.config.eval, model.size_multiple
        conditioned = model.fusion is not None
        # a smaller size has to be made of the image as it came, not of one that was resized on its way
        longest_side = self._config.longest_side if self._config.scales == (1.0,) else None
        open_vocabulary = isinstance(model, OpenVocabularyNetwork)
        self.card = ModelCard(name, uri, sha, checkpoint.classes.names, conditioned, longest_side, open_vocabulary)
        self._loaded: _Loaded | None = _loaded(checkpoint, model, canvases)
        self._warm_up()

    def canvas(self, height: int, width: int) -> tuple[int, int]:
        """Returns the (height, width) that an image of this size is padded to; only equal ones share a forward pass."""
        return pick_canvas(self._config, self._multiple, height, width, self._canvases)

    def label(
        self,
        images: Sequence[np.ndarray],
        sizes: Sequence[tuple[int, int]],
        *,
        provided: Sequence[Sequence[int]] | None = None,
        masks: Sequence[Sequence[np.ndarray]] | None = None,
        confidence_below: float = 0.0,
        second_looks: Sequence[SecondLook | None] | None = None,
    ) -> list[Labelled]:
        """Returns the label map of each image.

        Args:
            images: (H, W, 3) uint8 RGB each, at any scale. sizes: (height, width) of the label map of each.
            provided: ids of the conditioning classes of each; None = not provided.
            masks: of each, (h, w) bool at any scale of it, which get the class with the greatest mean logit; None =
                there are none.
            confidence_below: confidence in [0, 1] below which a pixel has low confidence; 0 = not computed.
            second_looks: of each, which regions are listed as doubtful; None = no list.
        """
        loaded = self._needed()
        predictor = loaded.unconditioned if provided is None else loaded.conditioned
        answers = []
        for index, logits in enumerate(predictor.logits(images, sizes, provided)):
            own = () if masks is None else masks[index]
            ids, confidence = refine_labels(logits, own, "soft" if own else "none", loaded.temperature)
            labelled = labelled_of(
                ids, confidence, len(self.card.classes), self.card.name, self.card.sha, confidence_below
            )
            look = None if second_looks is None else second_looks[index]
            if look is not None:
                labelled = replace(labelled, doubtful=self._doubtful(logits, ids, confidence, look))
            answers.append(labelled)
        return answers

    def _doubtful(self, logits: ImageLogits, ids: np.ndarray, confidence: np.ndarray, look: SecondLook) -> Doubtful:
        classes = ClassTable(self.card.classes)
        found = doubtful_regions(ids, confidence, classes, look.below, look.least_share)
        regions = [region for region, _ in found]
        probabilities = np.empty((0, len(classes)), np.float32)
        if regions:
            probabilities = segmenter_probabilities(logits, regions, self._needed().temperature)
        return Doubtful(regions, tuple(mean for _, mean in found), probabilities)

    def know(self, names: Sequence[str]) -> None:
        """Embeds names for `label_names`, which takes seconds when the text encoder is first asked.

        Raises:
            UserError: the model has no open vocabulary; as `parse_names` and `named_network`.
        """
        self._needed().named(tuple(names))

    def label_names(
        self, image: np.ndarray, names: Sequence[str], masks: Sequence[np.ndarray], refine: Refine
    ) -> Labelled:
        """Returns the label map of an image (H, W, 3) uint8 RGB, as `ClipBackend.label`; raises as `know`."""
        predictor = self._needed().named(tuple(names))
        (logits,) = predictor.logits([image], [(image.shape[0], image.shape[1])])
        labelled = refine_labels(logits, masks, refine, 1.0)
        return labelled_of(*labelled, 1 + len(names), self.card.name, self.card.sha)

    def _needed(self) -> _Loaded:
        """The weights, which are loaded again where they were released."""
        if self._loaded is None:
            checkpoint = self._checkpoint()
            model = load_model(checkpoint, self._config.weights, self._runtime)
            self._loaded = _loaded(checkpoint, model, self._canvases)
        return self._loaded

    def check(self) -> None:
        """Computes the smallest image that the model takes; does nothing while the weights are released.

        Raises:
            RuntimeError, or whatever else a broken model raises.
        """
        loaded = self._loaded
        if loaded is not None:
            loaded.unconditioned.probe(-(-_TINY // self._multiple) * self._multiple)

    def release(self) -> None:
        """Frees the weights; a later `label` loads them again."""
        self._loaded = None

    def _checkpoint(self) -> Checkpoint:
        checkpoint = load_checkpoint(self._uri)
        if checkpoint_sha(self._uri) != self._sha:
            raise UserError(f"the checkpoint {storage.redact(self._uri)} has changed since it was served")
        return checkpoint

    def _warm_up(self) -> None:
        """Labels a blank image, so that no request waits for kernels, and a model that cannot run never serves."""
        side = self._config.longest_side or _BLANK
        blank = np.full((side, side, 3), 128, np.uint8)
        try:
            self.label([blank], [(side, side)])
        except (RuntimeError, AssertionError) as error:
            detail = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"the checkpoint {storage.redact(self._uri)} loads, but does not label an image ({detail[:200]})"
            ) from None


def _loaded(checkpoint: Checkpoint, model: Network | ExportedNetwork, canvases: Sequence[tuple[int, int]]) -> _Loaded:
    """Returns both predictors. Without provided ingredients the checkpoint's `eval.ingredients` decides.

    A checkpoint that was evaluated with provided ingredients uses the whole vocabulary then.
    """
    config, precision = checkpoint.config.eval, checkpoint.config.train.precision
    unconditioned = config
    if config.ingredients == "provided":
        unconditioned = config.model_copy(update={"ingredients": "vocabulary", "restrict": "none"})
    conditioned = config.model_copy(update={"ingredients": "provided"})
    calibration = calibration_of(checkpoint, config)
    device, pixels = pick_device(), checkpoint.class_pixels

    @lru_cache(NAMES_KEPT)
    def named(names: tuple[str, ...]) -> Predictor:
        network = named_network(model, checkpoint, parse_names(names), "of this name")
        return Predictor(network, eval_of_names(config), device, precision)

    return _Loaded(
        Predictor(model, unconditioned, device, precision, canvases, pixels),
        Predictor(model, conditioned, device, precision, canvases, pixels),
        calibration.temperature if calibration else 1.0,
        named,
    )
