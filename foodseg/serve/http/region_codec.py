"""Reads the masks of a request, and encodes what regions were named: plain functions on plain data.

given = read_masks(data, (3000, 4000), (768, 1024))     # JSON or a PNG of ids, of the image as sent

A mask is read at the size of the image as it was sent, and measured there. The models see a smaller copy, in which
each pixel belongs to the mask if the one below its centre does; a mask that has no such pixel is all those that it
touches. Whatever a stranger sends is bounded before it is decoded: text, numbers, masks, their pixels, their outlines.

Shape letters: H, W of the image as sent; h, w of the decoded one.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco

from foodseg.annotations.coco_segmentation import MAX_OUTLINE, Rle, outline_length
from foodseg.classes import BACKGROUND
from foodseg.data.image_format import described_format
from foodseg.data.image_io import BadFile, decode_mask, known_format
from foodseg.data.regions import Box, Region, box_of, resize_mask
from foodseg.errors import UserError
from foodseg.predict.given_masks import entries_of, parse_entry, rle_of, segmentation_of, values_of_map
from foodseg.predict.region_label import region_labels, xywh
from foodseg.serve.http.base64_image import image_in_file
from foodseg.serve.http.masks import box as box_at
from foodseg.serve.http.masks import mask_runs
from foodseg.serve.http.schema import (
    ApiError,
    ImageInfo,
    ModelInfo,
    RecheckedRegion,
    RegionClass,
    RegionsAnswer,
    RegionsInfo,
)
from foodseg.serve.protocols import RegionsCard
from foodseg.serve.recheck import Rechecked

MAX_MASKS = 256
MAX_MASK_PIXELS = 2_000_000_000  # of all masks together, each at the image's own size: seconds of one core
MAX_TEXT = 4 * 2**20  # bytes of JSON: a parsed run or coordinate takes many times its bytes
MAX_VALUES = 400_000  # commas and brackets of it
FORMS = (
    "masks is JSON (a COCO document, or a list of RLE or polygons) or a PNG file with one value for each region, of "
    "the image's own size"
)


@dataclass(frozen=True, eq=False)
class GivenMask:
    """region: at the decoded size. number: as of `RegionClass`. pixels, share, box: of the mask as sent."""

    region: Region
    number: int
    pixels: int
    share: float
    box: Box


def read_masks(data: bytes, size: tuple[int, int], decoded: tuple[int, int]) -> list[GivenMask]:
    """Returns the masks of an image of `size` (H, W), which is decoded to `decoded` (h, w).

    Raises:
        ApiError: 422 bad_masks, they are malformed, of another size, without a pixel, or none; too_many_masks.
    """
    try:
        data = image_in_file(data)  # base64 or a data URL, as in JSON
        found = known_format(data)
        if found == "PNG":
            given = _of_png(data, size, decoded)
        elif found is not None or b"\0" in data[:64]:
            raise UserError(f"it is {described_format(data) or 'in no known format'}")
        else:
            given = _of_json(data, size, decoded)
        return list(given)
    except BadFile as error:
        raise ApiError(422, "bad_masks", f"masks: {error}", FORMS) from None
    except UserError as error:
        raise ApiError(422, "bad_masks", f"masks: {error}"[:500], FORMS) from None


def region_answer(
    logits: np.ndarray, given: Sequence[GivenMask], card: RegionsCard, *, request_id: str, image: ImageInfo
) -> RegionsAnswer:
    """Returns the answer of /v1/classify-regions. logits: (n, K), of n masks."""
    labels = region_labels(logits, [each.region for each in given], card.classes)
    regions = [
        RegionClass(
            number=each.number, id=label.id, name=label.name, score=label.score, second=label.second,
            second_score=label.second_score, pixels=each.pixels, share_of_image=each.share, box=xywh(each.box),
        )
        for each, label in zip(given, labels, strict=True)
    ]  # fmt: skip
    model = ModelInfo(name="regions", sha=card.sha)
    return RegionsAnswer(request_id=request_id, image=image, model=model, regions=regions)


def rechecked_infos(found: Sequence[Rechecked], names: Sequence[str], size: tuple[int, int]) -> list[RecheckedRegion]:
    """Returns regions that were looked at again, in an image of `size` (height, width)."""
    infos = []
    for each in found:
        mask = each.region.mask
        pixels = mask_runs(mask, *size).pixels
        infos.append(
            RecheckedRegion(
                id=each.after, name=names[each.after], before_id=each.before, before=names[each.before],
                confidence=each.confidence, score=each.score, pixels=pixels,
                share_of_image=pixels / (size[0] * size[1]), box=box_at(mask, *size),
            )
        )  # fmt: skip
    return infos


def regions_info(card: RegionsCard) -> RegionsInfo:
    """Returns the model of regions for /v1/models."""
    return RegionsInfo(serving=card.uri, sha=card.sha, classes=len(card.classes), recheck=card.looks_again)


def _of_png(data: bytes, size: tuple[int, int], decoded: tuple[int, int]) -> Iterator[GivenMask]:
    height, width = int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    if (height, width) != size:  # before anything is decoded
        raise UserError(f"the PNG has {width} x {height} pixels, and the image {size[1]} x {size[0]}")
    ids = decode_mask(data)
    values = values_of_map(ids, size, MAX_MASKS)
    _require_few(len(values), size)
    masks = ((value, ids == value) for value in values)
    return (_given(value, mask, box_of(mask), decoded) for value, mask in masks)


def _of_json(data: bytes, size: tuple[int, int], decoded: tuple[int, int]) -> Iterator[GivenMask]:
    if len(data) > MAX_TEXT:
        raise UserError(f"the JSON has more than {MAX_TEXT:,} bytes: send RLE, or a PNG")
    if sum(map(data.count, (b"[", b"{", b","))) > MAX_VALUES:
        raise UserError(f"the JSON holds more than {MAX_VALUES:,} values: send compressed RLE, or a PNG")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        raise UserError("it is neither JSON nor a PNG file") from None
    entries = entries_of(value, MAX_MASKS)
    _require_few(len(entries), size)
    return _of_entries(entries, size, decoded)


def _of_entries(entries: Sequence[Any], size: tuple[int, int], decoded: tuple[int, int]) -> Iterator[GivenMask]:
    outline = 0.0
    for index, entry in enumerate(entries):
        if isinstance(segmentation_of(entry), str):
            raise UserError(f"mask {index} is a text: send the list or the object itself")
        parsed = parse_entry(entry, index)
        if not isinstance(parsed, Rle):
            outline += sum(map(outline_length, parsed))
            if outline > MAX_OUTLINE:
                raise UserError(f"the outlines of the polygons are longer than {MAX_OUTLINE:,} pixels together")
        code = rle_of(parsed, index, size)
        left, top, width, height = map(int, coco.toBbox(code))
        # a bool mask costs no copy; its columns lie one after the other
        yield _given(index, coco.decode(code).view(bool), Box(top, left, top + height, left + width), decoded)


def _require_few(count: int, size: tuple[int, int]) -> None:
    if count * size[0] * size[1] > MAX_MASK_PIXELS:
        most = MAX_MASK_PIXELS // (size[0] * size[1])
        raise ApiError(
            422, "too_many_masks", f"{count} masks of {size[1]} x {size[0]} pixels came, and at most {most} of this "
            "size are read", "send fewer at once, or make the image and its masks smaller",
        )  # fmt: skip


def _given(number: int, mask: np.ndarray, box: Box, decoded: tuple[int, int]) -> GivenMask:
    pixels = int(np.count_nonzero(mask))
    small = resize_mask(mask, decoded)
    if not small.any():
        rows, columns = np.nonzero(mask)
        small[rows * decoded[0] // mask.shape[0], columns * decoded[1] // mask.shape[1]] = True
    return GivenMask(Region(BACKGROUND, small, box_of(small)), number, pixels, pixels / mask.size, box)
