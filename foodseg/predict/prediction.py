"""What is found on one image: the label map, its ingredients, and the forms in which other tools take it.

    found = foodseg.load("runs/a").predict("lunch.jpg")
    found.overlay().save("lunch.overlay.jpg")
    json.dump(to_coco([found]), open("lunch.coco.json", "w"))

Shape letters: H, W of the image; N ingredients.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from foodseg.annotations.coco_export import CocoDocument
from foodseg.classes import ClassTable
from foodseg.errors import UserError
from foodseg.predict.image_list import file_name
from foodseg.predict.ingredients import LabelledIngredient, labelled_ingredients
from foodseg.predict.instances import Instance
from foodseg.predict.recheck import RecheckedRegion
from foodseg.report.overlay import overlay

if TYPE_CHECKING:
    import supervision

CERTAIN = np.iinfo(np.uint16).max
_SHOWN = 4  # ingredients in repr


@dataclass(frozen=True, eq=False, repr=False)
class Prediction:
    """The label map of one image.

    Attributes:
        source: path or URI of the image, without secrets; None for an image that was given as an array.
        image: (H, W, 3) uint8 RGB, upright.
        ids: (H, W) uint8, uint16 for more than 256 classes: index of `classes`, 0 = background.
        confidence_16bit: (H, W) uint16, the confidence of each pixel; 65535 = certain.
        classes: names; the index is the id.
        ingredients_from: where the conditioning classes are from: vocabulary, predicted or provided.
        conditioning: their names; None = all classes.
        calibrated: whether confidences are; temperature: that logits were divided by.
        refined: how the label map was redrawn along masks of Segment Anything: none, vote or soft.
        instances: these masks, each with the ingredient that it was labelled as, the largest first; None where the
            label map was not redrawn.
        rechecked: regions of low confidence that a region classifier looked at again, with what they were called
            before, the largest first; None where none was asked.

    >>> import foodseg
    >>> found = foodseg.load("runs/a").predict("lunch.jpg")
    >>> found.ids.shape, found.ids.dtype.name, found.confidence.dtype.name
    ((96, 128), 'uint8', 'float32')
    >>> all(found.classes[each.id] == each.name for each in found.ingredients)
    True
    >>> round(sum(each.share_of_food for each in found.ingredients), 6)
    1.0
    """

    source: str | None
    image: np.ndarray
    ids: np.ndarray
    confidence_16bit: np.ndarray
    classes: tuple[str, ...]
    ingredients_from: str
    conditioning: tuple[str, ...] | None
    calibrated: bool
    temperature: float
    refined: str = "none"
    instances: tuple[Instance, ...] | None = None
    rechecked: tuple[RecheckedRegion, ...] | None = None

    @property
    def height(self) -> int:
        """Of the image, in pixels."""
        return int(self.ids.shape[0])

    @property
    def width(self) -> int:
        """Of the image, in pixels."""
        return int(self.ids.shape[1])

    @cached_property
    def ingredients(self) -> tuple[LabelledIngredient, ...]:
        """The ingredients, the largest first: id, name, pixels, share_of_food, share_of_image, confidence."""
        return labelled_ingredients(self.ids, self.confidence_16bit, self._table)

    @property
    def confidence(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: the softmax probability of each pixel's id. Computed at each access."""
        return self.confidence_16bit / np.float32(CERTAIN)

    def overlay(self, *, opacity: float = 0.55) -> Image.Image:
        """Returns the image with its ingredients tinted, and a legend below or at the right.

        Args:
            opacity: of the tint, 0 (only outlines are seen) to 1. UserError: out of range.

        >>> import foodseg
        >>> foodseg.load("runs/a").predict("lunch.jpg").overlay().mode
        'RGB'
        """
        return Image.fromarray(overlay(self.image, self.ids, self._table, opacity=opacity))

    def _repr_png_(self) -> bytes:
        """The overlay, which a notebook shows for the result."""
        png = io.BytesIO()
        self.overlay().save(png, "PNG")
        return png.getvalue()

    def to_coco(self) -> dict[str, Any]:
        """Returns a COCO document of this image, as `foodseg.to_coco` does of several.

        >>> import foodseg
        >>> document = foodseg.load("runs/a").predict("lunch.jpg").to_coco()
        >>> document["images"]
        [{'id': 1, 'file_name': 'lunch.jpg', 'height': 96, 'width': 128}]
        """
        return to_coco([self])

    def to_supervision(self) -> "supervision.Detections":
        """Returns `supervision.Detections`, one for each ingredient, the largest first.

        Masks are (N, H, W) bool, `xyxy` their boxes, `class_id` ids of `classes`, `confidence` the mean over the pixels
        of each, and `data["class_name"]` the names. Without an ingredient they are empty.

        Raises:
            UserError: supervision is not installed.

        >>> import foodseg
        >>> found = foodseg.load("runs/a").predict("lunch.jpg")
        >>> list(found.to_supervision()["class_name"]) == [each.name for each in found.ingredients]
        True
        """
        try:
            import supervision
        except ModuleNotFoundError:
            raise UserError("to_supervision needs supervision: pip install 'foodseg[supervision]'") from None
        found = self.ingredients
        if not found:
            return supervision.Detections.empty()
        masks = np.stack([self.ids == each.id for each in found])
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32),
            mask=masks,
            class_id=np.array([each.id for each in found]),
            confidence=np.array([each.confidence for each in found], np.float32),
            data={"class_name": np.array([each.name for each in found])},
        )

    @property
    def _table(self) -> ClassTable:
        return ClassTable(self.classes)

    def __repr__(self) -> str:
        found = [f"{each.name} {100 * each.share_of_food:.0f} %" for each in self.ingredients]
        shown = ", ".join(found[:_SHOWN]) or "no ingredient found"
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        return f"Prediction({self.source or 'an array'}, {self.width} x {self.height} pixels: {shown}{more})"


def to_coco(predictions: Iterable[Prediction]) -> dict[str, Any]:
    """Returns predictions of one model as one COCO document, which `json.dump` takes.

    `images` have the ids 1, 2, ...; `file_name` is the name of the file, or `image-<id>` for an array. `annotations`,
    one for each ingredient, have compressed RLE as pycocotools reads it, `area`, `bbox` (x, y, width, height) and
    `score`, the mean confidence. `categories` have the ids of the classes; background has none.

    Raises:
        UserError: it is no list, there is no prediction, or their classes differ.

    >>> import foodseg
    >>> found = foodseg.load("runs/a").predict(["lunch.jpg", "dinner.jpg"])
    >>> [image["file_name"] for image in foodseg.to_coco(found)["images"]]
    ['lunch.jpg', 'dinner.jpg']
    """
    if isinstance(predictions, Prediction):
        raise UserError("to_coco takes a list of predictions; of one it is prediction.to_coco()")
    document, classes = None, None
    for number, each in enumerate(predictions, start=1):
        if document is None:
            document, classes = CocoDocument(ClassTable(each.classes)), each.classes
        if each.classes != classes:
            raise UserError("to_coco: the predictions have different classes: export those of each model by themselves")
        add_to_coco(document, each, f"image-{number}" if each.source is None else file_name(each.source))
    if document is None:
        raise UserError("to_coco: there is no prediction to export")
    return document.to_json()


def add_to_coco(document: CocoDocument, prediction: Prediction, name: str) -> None:
    """Adds a prediction to a document under a file name."""
    document.add(name, prediction.ids, confidences={each.id: each.confidence for each in prediction.ingredients})


def add_instances(document: CocoDocument, prediction: Prediction, name: str) -> None:
    """Adds the instances of a prediction to a document under a file name; `score` is SAM's."""
    size = (prediction.height, prediction.width)
    document.add_regions(
        name,
        size,
        [
            {
                "category_id": each.id,
                "segmentation": {"size": list(size), "counts": each.counts},
                "area": each.pixels,
                "bbox": list(each.box),
                "iscrowd": 0,
                "score": each.score,
                "confidence": each.confidence,
            }
            for each in prediction.instances or ()
        ],
    )
