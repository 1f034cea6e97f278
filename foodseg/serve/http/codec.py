"""Decodes the image of a request, and encodes label maps and masks as answers: plain functions on plain data.

image = read_image(data, config.image)            # 415 and 422 are raised from the header, before decoding
answer = segment_answer(labelled, names, (image.height, image.width), "rle", request_id="r1")
"""

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simplejpeg

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.config.serve import ImageConfig
from foodseg.data.image_format import described_format, jpeg_scans, known_format, name_of_format
from foodseg.data.image_io import (
    BadFile,
    decode_image,
    encode_mask,
    fit_longest,
    image_size,
    resize_image,
)
from foodseg.errors import UserError
from foodseg.models.clip.names import parse_names
from foodseg.serve.http.masks import box, enlarged, label_runs, mask_runs, polygons, rle
from foodseg.serve.http.schema import (
    ApiError,
    ClassInfo,
    ImageInfo,
    Ingredient,
    MaskCode,
    MaskFormat,
    ModelInfo,
    NamedRegion,
    NameScore,
    RecheckedRegion,
    Region,
    RegionFormat,
    SegmentAnswer,
    ZeroShotAnswer,
)
from foodseg.serve.protocols import Labelled, SamMask

# A progressive JPEG has about ten scans. Each visits every pixel again, so that thousands of tiny ones in a small file
# would keep a decoder busy for hours (libjpeg-turbo, "Two Issues with the JPEG Standard").
MAX_SCANS = 100
TINY_IMAGE = base64.b64decode(  # a PNG of one pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVQIHWNoaGgAAAMEAYHZ9rm7AAAAAElFTkSuQmCC"
)
SENDABLE = "send a JPEG, PNG or WebP image"


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """image: (h, w, 3) uint8 RGB, contiguous, upright. height, width: of the image as sent, upright."""

    image: np.ndarray
    height: int
    width: int


def read_image(data: bytes, config: ImageConfig) -> DecodedImage:
    """Checks the format and the number of pixels by the header, then decodes once, at a size within `longest_side`.

    Raises:
        ApiError: 415 another format; 422 empty, too many pixels, or damaged.
    """
    if not data:
        raise ApiError(422, "empty_image", "the image is empty (0 bytes)", SENDABLE)
    found = known_format(data)
    if found not in ("JPEG", "PNG", "WEBP"):
        sentence = f"the image is {described_format(data) or 'in no known format'}"
        raise ApiError(415, "unsupported_format", sentence, _advice(name_of_format(data)))
    try:
        width, height = _header_size(data, found)
        _check(width, height, data, found, config)
        if found == "JPEG":
            # a JPEG can be decoded at a fraction of its size, so its orientation is read first
            height, width = image_size(data)
            fitted = decoded_size(height, width, config)
            return DecodedImage(resize_image(decode_image(data, at_least=fitted), *fitted), height, width)
        image = decode_image(data)
        height, width = image.shape[:2]
        return DecodedImage(resize_image(image, *decoded_size(height, width, config)), height, width)
    except (ApiError, MemoryError):
        raise
    except BadFile as error:
        if error.fault == "too_many_pixels":
            raise ApiError(422, "too_many_pixels", str(error), _smaller(config)) from None
        raise _damaged(found) from None
    except Exception:  # a damaged file can make a parser raise anything
        raise _damaged(found) from None


def decoded_size(height: int, width: int, config: ImageConfig) -> tuple[int, int]:
    """Returns (height, width) at which an image of this size is decoded."""
    if max(height, width) <= config.longest_side:
        return height, width
    return fit_longest(height, width, config.longest_side)


def to_decoded(
    points: Sequence[tuple[float, float, int]],
    region: tuple[float, float, float, float] | None,
    size: tuple[int, int],
    decoded: tuple[int, int],
) -> tuple[list[tuple[float, float, int]], tuple[float, float, float, float] | None]:
    """Scales points (x, y, label) and a box (x0, y0, x1, y1) from an image of `size` (height, width) to `decoded`."""
    down, across = decoded[0] / size[0], decoded[1] / size[1]
    scaled = [(x * across, y * down, label) for x, y, label in points]
    if region is None:
        return scaled, None
    x0, y0, x1, y1 = region
    return scaled, (x0 * across, y0 * down, x1 * across, y1 * down)


def segment_answer(
    labelled: Labelled,
    names: Sequence[str],
    size: tuple[int, int],
    format: MaskFormat,
    *,
    request_id: str,
    image_id: str | None = None,
    refined: bool = False,
    pixels_per_cm: float | None = None,
    rechecked: list[RecheckedRegion] | None = None,
) -> SegmentAnswer:
    """Returns the answer of /v1/segment.

    Args:
        labelled: ids at the decoded size. names: of the model's classes, id by id.
        size: (height, width) of the image as sent; masks, areas and the label map have it.
    """
    height, width = size
    colours = colours_of(names)
    runs = [(index, part) for index, part in label_runs(labelled.ids, height, width) if index != BACKGROUND]
    food = sum(part.pixels for _, part in runs)
    ingredients = []
    for index, part in sorted(runs, key=lambda item: (-item[1].pixels, item[0])):
        code: MaskCode | None = None
        if format == "rle":
            code = rle(part, height, width)
        elif format == "polygons":
            code = polygons(labelled.ids == index, height, width)
        ingredients.append(
            Ingredient(
                id=index,
                name=names[index],
                colour=colours[index],
                pixels=part.pixels,
                share_of_food=part.pixels / food,
                share_of_image=part.pixels / (height * width),
                cm2=None if pixels_per_cm is None else part.pixels / pixels_per_cm**2,
                confidence=min(1.0, max(0.0, labelled.confidences.get(index, 0.0))),
                mask=code,
            )
        )
    label_map = None
    if format == "png":
        label_map = base64.b64encode(encode_mask(enlarged(labelled.ids, height, width))).decode("ascii")
    return SegmentAnswer(
        request_id=request_id,
        image=ImageInfo(width=width, height=height, id=image_id),
        model=ModelInfo(name=labelled.model, sha=labelled.sha),
        ingredients=ingredients,
        label_map=label_map,
        refined=refined,
        rechecked=rechecked,
    )


def region(mask: SamMask, size: tuple[int, int], format: RegionFormat) -> Region:
    """Returns one SAM mask (at the decoded size) in the form of the API, in an image of `size` (height, width)."""
    height, width = size
    runs = mask_runs(mask.mask, height, width)
    return Region(
        score=float(mask.score),
        pixels=runs.pixels,
        share_of_image=runs.pixels / (height * width),
        box=box(mask.mask, height, width),
        mask=rle(runs, height, width) if format == "rle" else polygons(mask.mask, height, width),
    )


def wanted_labels(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the label of each name of a request, of several words for one the first.

    Raises:
        ApiError: 422, there is none, one occurs twice, or is "background".
    """
    if not names:
        raise ApiError(422, "no_names", "there is no name to look for", "send names between commas")
    hint = "several words for one name stand between bars: rice|cooked rice"
    try:
        labels = parse_names(names).labels
    except UserError as error:
        raise ApiError(422, "bad_names", str(error), hint) from None
    if len(labels) < len(names):
        raise ApiError(422, "bad_names", "a name has bars and no word", hint)
    return labels


def zero_shot_answer(
    labelled: Labelled | None,
    labels: Sequence[str],
    size: tuple[int, int],
    format: MaskFormat,
    *,
    request_id: str,
    image: ImageInfo,
    scores: Sequence[float],
    masks: Sequence[tuple[SamMask, Sequence[float]]] | None,
    refined: bool,
) -> ZeroShotAnswer:
    """Returns the answer of /v1/zero-shot.

    Args:
        labelled: ids of the labels, from 1 on, at the decoded size; None = there is no label map.
        size: as for `segment_answer`. scores: one for each label, of the whole image; empty = there are none.
        masks: SAM's regions with one score for each label; None = they were not requested.
    """
    regions = None
    if masks is not None:
        form: RegionFormat = "polygons" if format == "polygons" else "rle"
        regions = [
            NamedRegion(**dict(region(mask, size, form)), scores=name_scores(labels, own)) for mask, own in masks
        ]
    areas = None
    if labelled is not None:
        areas = segment_answer(labelled, ("background", *labels), size, format, request_id=request_id)
    return ZeroShotAnswer(
        request_id=request_id,
        image=image,
        scores=name_scores(labels, scores) if scores else [],
        masks=regions,
        ingredients=None if areas is None else areas.ingredients,
        label_map=None if areas is None else areas.label_map,
        refined=refined and labelled is not None,
    )


def name_scores(names: Sequence[str], scores: Sequence[float]) -> list[NameScore]:
    """Returns names with their scores, best first, ties in the order of the request."""
    pairs = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])
    return [NameScore(name=name, score=float(score)) for name, score in pairs]


def class_infos(names: Sequence[str]) -> list[ClassInfo]:
    """Returns the classes of a model with their colours, id by id."""
    return [
        ClassInfo(id=index, name=name, colour=colour)
        for index, (name, colour) in enumerate(zip(names, colours_of(names), strict=True))
    ]


def colours_of(names: Sequence[str]) -> list[str]:
    """Returns the colour of each class as #rrggbb, the same as in overlays."""
    palette = ClassTable(tuple(names)).palette()
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in palette.tolist()]


def _advice(found: str | None) -> str:
    if found == "HEIC":
        return f"{SENDABLE}; an iPhone takes JPEG with Settings, Camera, Formats, Most Compatible"
    return SENDABLE


def _header_size(data: bytes, found: str) -> tuple[int, int]:
    """Returns (width, height) as stored, from the first bytes alone: Pillow opens a WebP by allocating its pixels."""
    if found == "JPEG":
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        return width, height
    if found == "PNG":  # signature, length, IHDR
        if data[12:16] != b"IHDR":
            raise BadFile("no IHDR")
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    kind = data[12:16]  # RFC 9649
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = struct.unpack("<HH", data[26:30])
    return width & 0x3FFF, height & 0x3FFF


def _check(width: int, height: int, data: bytes, found: str, config: ImageConfig) -> None:
    if width < 1 or height < 1:
        raise _damaged(found)
    if width * height > config.max_pixels:
        sentence = f"the image has {width} x {height} pixels, more than the limit of {config.max_pixels:,}"
        raise ApiError(422, "too_many_pixels", sentence, _smaller(config))
    if found == "JPEG" and jpeg_scans(data, MAX_SCANS) > MAX_SCANS:
        raise ApiError(
            422, "too_many_scans", f"the JPEG has more than {MAX_SCANS} scans", "save it again as an ordinary JPEG"
        )


def _smaller(config: ImageConfig) -> str:
    return f"make it smaller: {config.longest_side} pixels on the longer side are all that the models see"


def _damaged(found: str) -> ApiError:
    return ApiError(422, "damaged_image", f"the {found} image is damaged or incomplete", "send it again")
