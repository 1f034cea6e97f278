"""Labels image files: overlay with legend, label map, areas and shares as JSON."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np

from foodseg import storage
from foodseg.checkpoint.checkpoint import Calibration, calibration_of, load_checkpoint, load_model
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.config.load import with_eval_overrides
from foodseg.data.image_io import decode_image, encode_mask, image_kind
from foodseg.errors import MissingFile, UserError
from foodseg.predict.class_names import parse_ingredients
from foodseg.predict.device import Device, device_name, pick_device
from foodseg.predict.image_list import list_images, require_different_stems, stem_of
from foodseg.predict.image_logits import ImageLogits
from foodseg.predict.predictor import Predictor
from foodseg.progress import Progress
from foodseg.report.overlay import food_shares, overlay
from foodseg.storage.outputs import Outputs, claim_outputs

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledIngredient:
    """An ingredient of an image: shares of the food and of the image, mean confidence of its pixels, in [0, 1]."""

    id: int
    name: str
    pixels: int
    share_of_food: float
    share_of_image: float
    confidence: float


@dataclass(frozen=True)
class LabelledImage:
    """A labelled image; the content of its JSON.

    image, label_map, overlay: files, without secrets. height, width: in pixels.
    ingredients_from: where the conditioning classes are from, as `eval.ingredients`. conditioning: their names; None =
    all classes.
    calibrated: whether confidences are, and the temperature that they were taken with.
    """

    image: str
    height: int
    width: int
    label_map: str
    overlay: str
    ingredients_from: str
    calibrated: bool
    temperature: float
    conditioning: tuple[str, ...] | None
    ingredients: tuple[LabelledIngredient, ...]


@dataclass(frozen=True)
class RefusedImage:
    """An image that is missing or cannot be read, and why."""

    image: str
    reason: str

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


@dataclass(frozen=True)
class LabelResults:
    """What became of each image, in their order."""

    images: tuple[LabelledImage, ...]
    refused: tuple[RefusedImage, ...]


def label_images(
    checkpoint: str,
    images: Sequence[str],
    out: str,
    overrides: Sequence[str] = (),
    ingredients: str | None = None,
    *,
    device: Device = "auto",
) -> LabelResults:
    """Labels each image; writes `<stem>.png` (ids, the image's own size), `<stem>.overlay.jpg` and `<stem>.json`.

    An image that cannot be read does not keep the others from being labelled.

    Args:
        checkpoint: a run, a checkpoint directory or a URI of either.
        images: files, folders (all images in them) or URIs. out: folder or URI; files in it that `predict` did not
            write itself are never replaced.
        overrides: `eval.key=value`, instead of what the checkpoint was trained with.
        ingredients: conditioning classes, names with commas between: sets eval.ingredients=provided.
        device: what the model computes on.

    Raises:
        UserError: no such checkpoint, two images of one name, the only image is missing, an output that would
            replace another file, an ingredient that is not in the label space, conditioning classes that the model
            cannot use.
    """
    uris = list_images(images)
    require_different_stems(uris)
    loaded = load_checkpoint(resolve_checkpoint(checkpoint))
    conditioned = [] if ingredients is None else ["eval.ingredients=provided"]
    config = with_eval_overrides(loaded.config, [*overrides, *conditioned])
    if ingredients is None and config.eval.ingredients == "provided":
        raise UserError('eval.ingredients = provided needs the conditioning classes: --ingredients "rice, fried tofu"')
    provided = None if ingredients is None else parse_ingredients(ingredients, loaded.classes)
    where = pick_device(device)
    _log.info("labelling on %s", device_name(where))
    predictor = Predictor(load_model(loaded, config.eval.weights), config.eval, where, config.train.precision)
    calibration = calibration_of(loaded, config.eval)
    names = [name for uri in uris for name in _output_names(stem_of(uri))]
    labelled: list[LabelledImage] = []
    refused: list[RefusedImage] = []
    claimed = claim_outputs(out, names, by="predict", inputs=uris)
    with claimed as outputs, Progress("labelling images", len(uris)) as progress:
        for uri in uris:
            try:
                image, scaled = _read_image(uri, predictor)
            except MissingFile:
                if len(uris) == 1:  # a mistyped name, not a fault of the data
                    raise
                refused.append(RefusedImage(storage.redact(uri), "there is no such file"))
            except UserError as error:
                refused.append(RefusedImage(storage.redact(uri), str(error)))
            else:
                (logits,) = predictor.logits([scaled], [image.shape[:2]], None if provided is None else [provided])
                labelled.append(
                    _write_labels(uri, image, logits, loaded.classes, config.eval.ingredients, calibration, outputs)
                )
            progress.advance(1)
    return LabelResults(tuple(labelled), tuple(refused))


def _read_image(uri: str, predictor: Predictor) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image (H, W, 3) uint8, and the same as large as the predictor needs it.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    data = storage.read_bytes(uri)
    scaled, size = predictor.decode(data)
    image = scaled if scaled.shape[:2] == size else decode_image(data)
    if "frames" in image_kind(data).traits:
        _log.warning("%s has several frames or pages: the first one is labelled", storage.redact(uri))
    return image, scaled


def _output_names(stem: str) -> tuple[str, str, str]:
    return f"{stem}.png", f"{stem}.overlay.jpg", f"{stem}.json"


def _write_labels(
    uri: str,
    image: np.ndarray,
    logits: ImageLogits,
    classes: ClassTable,
    ingredients_from: str,
    calibration: Calibration | None,
    outputs: Outputs,
) -> LabelledImage:
    """Writes the three files of an image."""
    temperature = calibration.temperature if calibration else 1.0
    ids, confidence = logits.ids_and_confidence(temperature)
    confidences = mean_confidences(ids, confidence, len(classes))
    label_map, shown, about = _output_names(stem_of(uri))
    found = LabelledImage(
        image=storage.redact(uri),
        height=image.shape[0],
        width=image.shape[1],
        label_map=storage.redact(outputs.write_bytes(label_map, encode_mask(ids))),
        overlay=storage.redact(outputs.write_bytes(shown, _jpeg(overlay(image, ids, classes)))),
        ingredients_from=ingredients_from,
        calibrated=calibration is not None,
        temperature=temperature,
        conditioning=None if logits.conditioning is None else _names(logits.conditioning, classes),
        ingredients=tuple(
            LabelledIngredient(
                id=index,
                name=classes.names[index],
                pixels=pixels,
                share_of_food=share,
                share_of_image=pixels / ids.size,
                confidence=float(confidences[index]),
            )
            for index, pixels, share in food_shares(ids, classes)
        ),
    )
    outputs.write_bytes(about, (json.dumps(asdict(found), indent=2) + "\n").encode())
    return found


def mean_confidences(ids: np.ndarray, confidence: np.ndarray, classes: int) -> np.ndarray:
    """Returns (classes,) float64 mean confidence in [0, 1] of the pixels of each id, 0 for ids without pixels.

    Args:
        ids: (H, W) ids. confidence: (H, W) uint16, 65535 = certain.
    """
    sums, pixels = np.zeros(classes), np.zeros(classes, np.int64)
    for row, confident in zip(ids, confidence, strict=True):  # row by row: bincount takes 8 bytes a pixel
        sums += np.bincount(row, weights=confident, minlength=classes)
        pixels += np.bincount(row, minlength=classes)
    return sums / (np.iinfo(np.uint16).max * np.maximum(1, pixels))


def _names(conditioning: np.ndarray, classes: ClassTable) -> tuple[str, ...]:
    return tuple(classes.names[index] for index in np.flatnonzero(conditioning) if index != BACKGROUND)


def _jpeg(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert ok
    return data.tobytes()
