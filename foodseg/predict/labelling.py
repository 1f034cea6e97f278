"""Images in, predictions out, for whatever gives class scores: a trained network, CLIP with any names.

labelling = Labelling(predictor, classes, ingredients_from="vocabulary", calibrated=False, temperature=1.0)
found = labelling.predict(["lunch.jpg", "dinner.jpg"], batch_size=2)
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from foodseg import storage
from foodseg.classes import BACKGROUND
from foodseg.errors import UserError
from foodseg.predict.image_input import ImageInput, read_image
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.instances import labelled_instances
from foodseg.predict.prediction import Prediction
from foodseg.predict.predictor import Predictor
from foodseg.predict.recheck import Recheck
from foodseg.predict.refine import Refiner, label_masks, paint_masks
from foodseg.predict.sam_vote import largest


@dataclass(frozen=True)
class Labelling:
    """How images are labelled, and the predictor built for it.

    classes: names; the index is the id. ingredients_from, calibrated, temperature: as those of `Prediction`.
    refiner: redraws label maps along masks; None = they stay as they are. recheck: looks again at doubtful regions.
    """

    predictor: Predictor
    classes: tuple[str, ...]
    ingredients_from: str
    calibrated: bool
    temperature: float
    refiner: Refiner | None = None
    recheck: Recheck | None = None

    def predict(
        self, images: Sequence[ImageInput], batch_size: int, provided: Sequence[int] | None = None
    ) -> Iterator[Prediction]:
        """Yields a prediction for each image, `batch_size` of which are read at once.

        Args:
            provided: conditioning classes (ids) of all images.

        Raises:
            UserError: as `read_image`, with the number of the image where it has no name; a batch size below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch_size is at least 1, found {batch_size}")
        for start in range(0, len(images), batch_size):
            batch = images[start : start + batch_size]
            whole, scaled = [], []
            for index, image in enumerate(batch, start=start):
                with _named(image, index if len(images) > 1 else None):
                    pixels = read_image(image, self.predictor)
                whole.append(pixels[0])
                scaled.append(pixels[1])
            listed = None if provided is None else [provided] * len(batch)
            logits = self.predictor.logits(scaled, [(each.shape[0], each.shape[1]) for each in whole], listed)
            for image, pixels_of_image, found in zip(batch, whole, logits, strict=True):
                yield self._prediction(image, pixels_of_image, found)

    def _prediction(self, image: ImageInput, pixels: np.ndarray, logits: ImageLogits) -> Prediction:
        instances = rechecked = None
        if self.refiner is None:
            ids, confidence = logits.ids_and_confidence(self.temperature)
        else:
            how, found = self.refiner.how, self.refiner.masks(pixels)
            masks = [each.mask for each in found]
            labels = label_masks(logits, masks, how, self.temperature)
            painted = set(largest(masks))  # those that `evaluate` and the endpoint count, too
            votes = [label for label in labels if label.mask in painted]
            ids, confidence = paint_masks(logits, masks, votes, how, self.temperature)
            instances = labelled_instances(found, labels, (ids.shape[0], ids.shape[1]), self.classes)
        if self.recheck is not None:
            ids, confidence, rechecked = self.recheck(pixels, logits, ids, confidence, self.temperature)
        return Prediction(
            source=storage.redact(os.fspath(image)) if isinstance(image, str | os.PathLike) else None,
            image=pixels,
            ids=ids,
            confidence_16bit=confidence,
            classes=self.classes,
            ingredients_from=self.ingredients_from,
            conditioning=_names(logits, self.classes),
            calibrated=self.calibrated,
            temperature=self.temperature,
            refined="none" if self.refiner is None else self.refiner.how,
            instances=instances,
            rechecked=rechecked,
        )


@contextlib.contextmanager
def _named(image: ImageInput, index: int | None) -> Iterator[None]:
    """Puts in front of an error which array of several it is about; `index` is None for a single image."""
    try:
        yield
    except UserError as error:
        if index is None or isinstance(image, str | os.PathLike):  # an error of a file names it
            raise
        raise UserError(f"images[{index}]: {error}") from None


def _names(logits: ImageLogits, classes: Sequence[str]) -> tuple[str, ...] | None:
    if logits.conditioning is None:
        return None
    return tuple(classes[index] for index in np.flatnonzero(logits.conditioning).tolist() if index != BACKGROUND)
