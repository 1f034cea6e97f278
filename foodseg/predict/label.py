"""Labels image files: overlay with legend, label map, areas and shares as JSON, COCO.

label_images("runs/a", ["lunch.jpg"], "labelled", formats=["png", "coco"])
zero_shot_images("kimchi, rice", ["lunch.jpg"], "labelled")
"""

import functools
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from foodseg import storage
from foodseg.annotations.coco_export import CocoDocument
from foodseg.classes import ClassTable
from foodseg.data.image_io import encode_mask
from foodseg.errors import MissingFile, UserError
from foodseg.models.exported import Runtime
from foodseg.predict.class_names import parse_ingredients
from foodseg.predict.device import Device, device_name
from foodseg.predict.image_list import file_name, list_images, require_different_stems, stem_of
from foodseg.predict.ingredients import LabelledIngredient
from foodseg.predict.instances import Instance
from foodseg.predict.prediction import Prediction, add_instances, add_to_coco
from foodseg.predict.recheck import RecheckedRegion
from foodseg.predict.refine import Refine
from foodseg.predict.segmenter import Segmenter, load
from foodseg.predict.zero_shot import ZeroShotSegmenter, zero_shot
from foodseg.progress import Progress
from foodseg.storage.outputs import Outputs, claim_outputs

OutputFormat = Literal["overlay", "png", "json", "coco", "instances"]
DEFAULT_FORMATS: tuple[OutputFormat, ...] = ("overlay", "png", "json")
COCO_FILE, INSTANCES_FILE = "predictions.coco.json", "instances.coco.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImage:
    """A labelled image; the content of its JSON.

    image, label_map, overlay: files, without secrets; None for what was not asked for. height, width: in pixels.
    ingredients_from: where the conditioning classes are from, as `eval.ingredients`. conditioning: their names; None =
    all classes.
    calibrated: whether confidences are, and the temperature that they were taken with. refined: how the label map was
    redrawn along masks of Segment Anything: none, vote or soft. instances: these masks with their labels; None where it
    was not redrawn. rechecked: regions that a region classifier looked at again; None where none was asked.
    """

    image: str
    height: int
    width: int
    label_map: str | None
    overlay: str | None
    ingredients_from: str
    calibrated: bool
    temperature: float
    refined: str
    conditioning: tuple[str, ...] | None
    ingredients: tuple[LabelledIngredient, ...]
    instances: tuple[Instance, ...] | None
    rechecked: tuple[RecheckedRegion, ...] | None


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


def parse_formats(values: Sequence[str]) -> tuple[OutputFormat, ...]:
    """Returns what `--format` says, the default where nothing is said. UserError: an unknown format."""
    known: dict[str, OutputFormat] = {name: name for name in get_args(OutputFormat)}
    for value in values:
        if value not in known:
            raise UserError(f"--format {value!r}: use {', '.join(known)}; repeat it for several")
    return tuple(known[value] for value in dict.fromkeys(values)) or DEFAULT_FORMATS


def label_images(
    checkpoint: str,
    images: Sequence[str],
    out: str,
    overrides: Sequence[str] = (),
    ingredients: str | None = None,
    *,
    names: str | Sequence[str] | None = None,
    device: Device = "auto",
    formats: Collection[OutputFormat] = DEFAULT_FORMATS,
    refine: Refine = "none",
    sam: str | None = None,
    recheck: str | None = None,
    recheck_below: float | None = None,
    runtime: Runtime | None = None,
) -> LabelResults:
    """Labels each image; writes `<stem>.png` (ids, the image's own size), `<stem>.overlay.jpg` and `<stem>.json`.

    An image that cannot be read does not keep the others from being labelled.

    Args:
        checkpoint: a run, a checkpoint directory or a URI of either.
        images: files, folders (all images in them) or URIs. out: folder or URI; files in it that `predict` did not
            write itself are never replaced.
        overrides: `eval.key=value`, instead of what the checkpoint was trained with.
        ingredients: conditioning classes, names with commas between: sets eval.ingredients=provided.
        names: other names to look for, for an open-vocabulary model, as for `Segmenter.with_names`.
        device: what the model computes on.
        formats: what is written; with "coco" one COCO_FILE of all images, with "instances" one INSTANCES_FILE.
        refine, sam, recheck, recheck_below, runtime: as for `load`.

    Raises:
        UserError: no such checkpoint, two images of one name, the only image is missing, an output that would
            replace another file, an ingredient that is not in the label space, conditioning classes that the model
            cannot use.
    """
    uris = list_images(images)
    require_different_stems(uris)
    conditioned = [] if ingredients is None else ["eval.ingredients=provided"]
    model = load(
        checkpoint, device=device, overrides=[*overrides, *conditioned], refine=refine, sam=sam, recheck=recheck,
        recheck_below=recheck_below, runtime=runtime,
    )  # fmt: skip
    if names is not None:
        model = model.with_names(names)
    if ingredients is None and model.config.eval.ingredients == "provided":
        raise UserError('eval.ingredients = provided needs the conditioning classes: --ingredients "rice, fried tofu"')
    if ingredients is not None:
        parse_ingredients(ingredients, ClassTable(model.classes))  # before anything is written
    predict = functools.partial(model.predict, ingredients=ingredients)
    return label_files(predict, model, uris, out, formats, by="predict")


def zero_shot_images(
    names: str | Sequence[str],
    images: Sequence[str],
    out: str,
    overrides: Sequence[str] = (),
    *,
    config: str | None = None,
    device: Device = "auto",
    formats: Collection[OutputFormat] = DEFAULT_FORMATS,
    refine: Refine = "none",
    sam: str | None = None,
) -> LabelResults:
    """As `label_images`, with CLIP and any names instead of a checkpoint; the rest as for `zero_shot`.

    Raises:
        UserError: as `zero_shot` and `label_images`.
    """
    uris = list_images(images)
    require_different_stems(uris)
    model = zero_shot(names, config=config, overrides=overrides, device=device, refine=refine, sam=sam)
    return label_files(model.predict, model, uris, out, formats, by="zero-shot")


def label_files(
    predict: Callable[[str], Prediction],
    model: Segmenter | ZeroShotSegmenter,
    uris: Sequence[str],
    out: str,
    formats: Collection[OutputFormat],
    *,
    by: str,
) -> LabelResults:
    """Labels files of different stems with `predict` of the model; `by` is the command that the results belong to."""
    classes = ClassTable(model.classes)
    _log.info("labelling on %s", device_name(model.device))
    names = [name for uri in uris for kind, name in _output_names(stem_of(uri)).items() if kind in formats]
    if "instances" in formats and model.refiner is None:
        raise UserError("--format instances needs --refine vote or soft: instances are masks of Segment Anything")
    together = {"coco": COCO_FILE, "instances": INSTANCES_FILE}
    documents = {name: CocoDocument(classes) for name in together if name in formats}
    labelled: list[LabelledImage] = []
    refused: list[RefusedImage] = []
    claimed = claim_outputs(out, [*names, *(together[name] for name in documents)], by=by, inputs=uris)
    with claimed as outputs, Progress("labelling images", len(uris)) as progress:
        for uri in uris:
            try:
                found = predict(uri)
            except MissingFile:
                if len(uris) == 1:  # a mistyped name, not a fault of the data
                    raise
                refused.append(RefusedImage(storage.redact(uri), "there is no such file"))
            except UserError as error:
                shown = storage.redact(uri)  # an error of a file begins with its name, which the record has already
                refused.append(RefusedImage(shown, str(error).removeprefix(f"{shown}: ")))
            else:
                labelled.append(_write_labels(uri, found, formats, documents, outputs))
            progress.advance(1)
        for name, document in documents.items():
            outputs.write_bytes(together[name], (json.dumps(document.to_json()) + "\n").encode())
    return LabelResults(tuple(labelled), tuple(refused))


def _write_labels(
    uri: str,
    found: Prediction,
    formats: Collection[OutputFormat],
    documents: Mapping[str, CocoDocument],
    outputs: Outputs,
) -> LabelledImage:
    """Writes the files of one image, and adds it to the COCO documents of all."""
    names = _output_names(stem_of(uri))
    label_map = overlay = None
    if "png" in formats:
        label_map = storage.redact(outputs.write_bytes(names["png"], encode_mask(found.ids)))
    if "overlay" in formats:
        overlay = storage.redact(outputs.write_bytes(names["overlay"], jpeg_of(np.asarray(found.overlay()))))
    if "coco" in documents:
        add_to_coco(documents["coco"], found, file_name(uri))
    if "instances" in documents:
        add_instances(documents["instances"], found, file_name(uri))
    labelled = LabelledImage(
        image=storage.redact(uri),
        height=found.height,
        width=found.width,
        label_map=label_map,
        overlay=overlay,
        ingredients_from=found.ingredients_from,
        calibrated=found.calibrated,
        temperature=found.temperature,
        refined=found.refined,
        conditioning=found.conditioning,
        ingredients=found.ingredients,
        instances=found.instances,
        rechecked=found.rechecked,
    )
    if "json" in formats:
        outputs.write_bytes(names["json"], (json.dumps(asdict(labelled), indent=2) + "\n").encode())
    return labelled


def _output_names(stem: str) -> dict[OutputFormat, str]:
    return {"png": f"{stem}.png", "overlay": f"{stem}.overlay.jpg", "json": f"{stem}.json"}


def jpeg_of(image: np.ndarray) -> bytes:
    """Returns an image (H, W, 3) uint8 RGB as a JPEG."""
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert ok
    return data.tobytes()
