"""Names the regions of image files whose masks the user has; `foodseg predict --masks`.

    name_regions("runs/roi", ["lunch.jpg"], "lunch.masks.json", "labelled")

writes `<stem>.regions.json` and `<stem>.regions.jpg`, the image with its regions tinted.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from foodseg import storage
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.errors import MissingFile, UserError
from foodseg.predict.device import Device
from foodseg.predict.given_masks import masks_file, read_masks
from foodseg.predict.image_input import read_whole_image
from foodseg.predict.image_list import list_images, require_different_stems, stem_of
from foodseg.predict.label import RefusedImage, jpeg_of
from foodseg.predict.region_classifier import load_region_classifier
from foodseg.predict.region_label import RegionLabel
from foodseg.progress import Progress
from foodseg.report.overlay import overlay
from foodseg.storage.outputs import Outputs, claim_outputs


@dataclass(frozen=True)
class NamedImage:
    """An image whose regions were named; the content of its JSON. regions: in the order of the masks."""

    image: str
    masks: str
    overlay: str
    height: int
    width: int
    regions: tuple[RegionLabel, ...]


@dataclass(frozen=True)
class NamedResults:
    """What became of each image, in their order."""

    images: tuple[NamedImage, ...]
    refused: tuple[RefusedImage, ...]


def name_regions(
    checkpoint: str,
    images: Sequence[str],
    masks: str,
    out: str,
    overrides: Sequence[str] = (),
    *,
    device: Device = "auto",
) -> NamedResults:
    """Names the regions of each image.

    An image or a file of masks that cannot be read does not keep the others from being named.

    Args:
        checkpoint: of a region classifier or a segmenter. images: files, folders or URIs.
        masks: a file for one image, or a folder of `<stem>.png` or `<stem>.json`.
        out: folder or URI; files in it that `predict` did not write itself are never replaced.

    Raises:
        UserError: one file of masks for several images; as `label_images`.
    """
    uris = list_images(images)
    require_different_stems(uris)
    if len(uris) > 1 and masks.lower().endswith((".png", ".json")):
        raise UserError(f"--masks {masks} is one file, and there are {len(uris)} images: name a folder of one for each")
    model = load_region_classifier(checkpoint, device=device, overrides=overrides)
    table = ClassTable(model.classes)
    names = [f"{stem_of(uri)}.regions.{ending}" for uri in uris for ending in ("json", "jpg")]
    named: list[NamedImage] = []
    refused: list[RefusedImage] = []
    claimed = claim_outputs(out, names, by="predict", inputs=[*uris, masks])
    with claimed as outputs, Progress("naming regions", len(uris)) as progress:
        for uri in uris:
            shown = storage.redact(uri)
            try:
                pixels = read_whole_image(uri)
                own = masks_file(masks, uri)
                found = read_masks(own, (pixels.shape[0], pixels.shape[1]))
                labels = model.classify(pixels, found)
            except MissingFile as error:
                if len(uris) == 1:  # a mistyped name, not a fault of the data
                    raise
                refused.append(RefusedImage(shown, str(error)))
            except UserError as error:
                refused.append(RefusedImage(shown, str(error).removeprefix(f"{shown}: ")))
            else:
                result = NamedImage(
                    shown, storage.redact(own), storage.redact(storage.join(out, f"{stem_of(uri)}.regions.jpg")),
                    pixels.shape[0], pixels.shape[1], tuple(labels),
                )  # fmt: skip
                _write(uri, result, painted(found, labels, table), pixels, table, outputs)
                named.append(result)
            progress.advance(1)
    return NamedResults(tuple(named), tuple(refused))


def painted(masks: Sequence[np.ndarray], labels: Sequence[RegionLabel], table: ClassTable) -> np.ndarray:
    """Returns (H, W) ids of the regions, smaller ones on top of larger ones; background elsewhere."""
    ids = np.full(masks[0].shape, BACKGROUND, table.mask_dtype)
    for index in sorted(range(len(masks)), key=lambda index: -labels[index].pixels):
        ids[masks[index]] = labels[index].id
    return ids


def _write(
    uri: str, result: NamedImage, ids: np.ndarray, pixels: np.ndarray, table: ClassTable, outputs: Outputs
) -> None:
    outputs.write_bytes(f"{stem_of(uri)}.regions.jpg", jpeg_of(overlay(pixels, ids, table)))
    outputs.write_bytes(f"{stem_of(uri)}.regions.json", (json.dumps(asdict(result), indent=1) + "\n").encode())
