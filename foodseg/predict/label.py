"""Labels picture files: overlay with legend, label map, areas and shares as JSON."""

import logging
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from foodseg import storage
from foodseg.checkpoint import calibration_of, load_checkpoint, load_model
from foodseg.checkpoint_files import resolve_checkpoint
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.config.load import with_eval_overrides
from foodseg.data.sample import decode_image, encode_mask
from foodseg.errors import UserError
from foodseg.overlay import food_shares, overlay
from foodseg.predict.device import Device, in_words, pick_device
from foodseg.predict.names import parse_names
from foodseg.predict.predictor import Predictor
from foodseg.progress import Progress

_log = logging.getLogger(__name__)


def label_pictures(
    checkpoint: str,
    pictures: Sequence[str],
    out: str,
    overrides: Sequence[str] = (),
    ingredients: str | None = None,
    *,
    device: Device = "auto",
) -> list[dict[str, Any]]:
    """Labels each picture; writes `<stem>.png` (ids, the picture's own size), `<stem>.overlay.jpg` and `<stem>.json`.

    Args:
        checkpoint: a run, a checkpoint directory or a URI of either.
        pictures: files or URIs. out: folder or URI.
        overrides: `eval.key=value`, instead of what the checkpoint was trained with.
        ingredients: names with commas between, the ones that may be on the pictures: sets eval.ingredients=given.
        device: what the model computes on.

    Returns:
        Per picture what its JSON holds: paths, size; the names that might be on it and where that list is from
        (vocabulary: all, listed null); whether confidences are calibrated and the temperature that they
        were taken with; per ingredient id, name, pixels, shares of food and picture, mean confidence of its pixels.

    Raises:
        UserError: no such checkpoint or picture, a picture that cannot be read, two pictures of one name, an
            ingredient that the label space has not, a list that the model cannot use.
    """
    stems = [_stem(picture) for picture in pictures]
    repeated = next((stem for stem in stems if stems.count(stem) > 1), None)
    if repeated is not None:
        raise UserError(
            f"two pictures are called {repeated!r}, and their results would overwrite each other: rename one"
        )
    loaded = load_checkpoint(resolve_checkpoint(checkpoint))
    told = [] if ingredients is None else ["eval.ingredients=given"]
    config = with_eval_overrides(loaded.config, [*overrides, *told])
    if ingredients is None and config.eval.ingredients == "given":
        raise UserError('eval.ingredients = given needs the list: --ingredients "rice, fried tofu"')
    given = None if ingredients is None else parse_names(ingredients, loaded.classes)
    where = pick_device(device)
    _log.info("labelling on %s", in_words(where))
    predictor = Predictor(load_model(loaded, config.eval.weights), config.eval, where, config.train.precision)
    calibration = calibration_of(loaded, config.eval)
    temperature = calibration.temperature if calibration else 1.0
    results = []
    with Progress("labelling pictures", len(pictures)) as progress:
        for picture, stem in zip(pictures, stems, strict=True):
            data = storage.read_bytes(picture)
            try:
                image = decode_image(data)
            except UserError as error:
                raise UserError(f"{storage.redact(picture)}: {error}") from None
            height, width = image.shape[:2]
            logits = predictor.logits(image, height, width, given)
            ids, confidence = logits.ids_and_confidence(temperature)
            confidences = mean_confidences(ids, confidence, len(loaded.classes))
            label_map, shown = (storage.join(out, f"{stem}.{ending}") for ending in ("png", "overlay.jpg"))
            result = {
                "picture": storage.redact(picture),
                "height": height,
                "width": width,
                "label_map": storage.redact(label_map),
                "overlay": storage.redact(shown),
                "ingredients_from": config.eval.ingredients,
                "listed": None if logits.names is None else _names(logits.names, loaded.classes),
                "calibrated": calibration is not None,
                "temperature": temperature,
                "ingredients": [
                    {
                        "id": index,
                        "name": loaded.classes.names[index],
                        "pixels": pixels,
                        "share_of_food": share,
                        "share_of_picture": pixels / ids.size,
                        "confidence": float(confidences[index]),
                    }
                    for index, pixels, share in food_shares(ids, loaded.classes)
                ],
            }
            storage.write_bytes(label_map, encode_mask(ids))
            storage.write_bytes(shown, _jpeg(overlay(image, ids, loaded.classes)))
            storage.write_json(storage.join(out, f"{stem}.json"), result)
            results.append(result)
            progress.advance(1)
    return results


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


def _names(listed: np.ndarray, classes: ClassTable) -> list[str]:
    return [classes.names[index] for index in np.flatnonzero(listed) if index != BACKGROUND]


def _stem(uri: str) -> str:
    return uri.partition("?")[0].rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]


def _jpeg(image: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert ok
    return data.tobytes()
