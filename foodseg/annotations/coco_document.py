"""One COCO file: JSON in any encoding, checked entry by entry, with ids by one rule (`coco_values`).

    document = read_document("downloads/meals", "annotations/instances_train.json", "train")

A file that is not COCO is refused. A malformed entry is kept together with the reason, so that the audit
can name it; an annotation that belongs to no image is counted as lost.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil

from foodseg import storage
from foodseg.annotations.coco_segmentation import fits, is_empty, size_at_least
from foodseg.annotations.coco_values import Id, flag, identifier, is_missing, near_key, whole_number
from foodseg.errors import UserError
from foodseg.storage.text_files import decode_text

PARSED = 7  # times the size of a file that its entries take in memory, at their peak, where most are polygons
_LFS = "version https://git-lfs"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Category:
    """An entry of `categories`. `supercategory` is as the file gives it."""

    name: str
    supercategory: Any


@dataclass(frozen=True)
class Annotation:
    """An entry of `annotations`.

    Attributes:
        segmentation: JSON text.
        size: smallest (height, width) of an image that holds this region; 0 = unknown.
        wrong: why its image cannot be used; None = it can.
    """

    name: str
    category: Id | None
    crowd: bool
    segmentation: str
    size: tuple[float, float]
    wrong: str | None


@dataclass(frozen=True)
class ImageEntry:
    """An entry of `images`.

    Attributes:
        id: None = the entry has no id that an annotation could name.
        raw_id: the id as the file spells it.
        file_name: None = the entry has no file name, and `nameless` says so.
        own_id: the id that `coco_export` wrote, or something else.
        height, width: pixels; None = not in the file.
        wrong_size: why height and width cannot be used; None = they can, or are missing.
    """

    id: Id | None
    raw_id: Any
    file_name: str | None
    nameless: str
    own_id: Any
    height: int | None
    width: int | None
    wrong_size: str | None


@dataclass(frozen=True)
class LostForReason:
    """Annotations that belong to no image for one reason."""

    first: str  # name of the first of them
    count: int
    reason: str


@dataclass(frozen=True)
class Document:
    """The content of a COCO file. `annotations` by image id; None where the file has no such list: unlabelled."""

    path: str
    split: str
    categories: dict[Id, Category]
    images: list[ImageEntry]
    annotations: dict[Id, list[Annotation]] | None
    lost: tuple[LostForReason, ...]
    total: int  # annotations, the lost ones too


def read_document(src: str, path: str, split: str, own_key: str) -> Document:
    """Reads the COCO file at `path` below `src`.

    Args:
        own_key: key of an image for the id that `coco_export` wrote.

    Raises:
        UserError: not JSON, more than fits into memory, no list `images`, or a list that holds something other than
            objects.
    """
    where = storage.redact(storage.join(src, path))
    data = storage.read_bytes(storage.join(src, path))
    _require_memory(len(data), where)
    document = _load(data, where)
    images = _objects(document, "images", where)
    if images is None:
        raise UserError(f"{where} is not a COCO file: it has no list `images`{_instead(document, 'images')}")
    entries = _objects(document, "annotations", where)
    near = near_key(document, "annotations")
    if entries is None and near is not None:
        raise UserError(f"{where}: it has no list `annotations`, but {near!r}: rename it, or remove it for no labels")
    categories = _categories(document, where, needed=bool(entries))
    known = _images(images, own_key, where)
    listed = {image.id for image in known}
    annotations: dict[Id, list[Annotation]] | None = None if entries is None else defaultdict(list)
    strays: dict[str, list[str]] = defaultdict(list)
    for number, entry in enumerate(entries or [], start=1):
        name = f"annotation {entry['id']}" if "id" in entry else f"annotation number {number}"
        image_id = identifier(entry.get("image_id"))
        if image_id is None or image_id not in listed:
            strays[_why_lost(entry, image_id, images)].append(name)
        elif annotations is not None:
            annotations[image_id].append(_annotation(entry, name))
    if _sides_exchanged(known, annotations or {}):
        _log.warning(
            "%s: height and width are exchanged in `images`, as the annotations show, and are swapped back", where
        )
        known = [replace(image, height=image.width, width=image.height) for image in known]
    _log_other_spellings(where, [*images, *(entries or []), *(_objects(document, "categories", where) or [])])
    lost = tuple(LostForReason(names[0], len(names), reason) for reason, names in strays.items())
    return Document(path, split, categories, known, annotations, lost, len(entries or []))


def _require_memory(size: int, where: str) -> None:
    """Refuses a file of `size` bytes that cannot be parsed in the memory that is left: the process would be killed."""
    free = psutil.virtual_memory().available
    if size * PARSED > free:
        raise UserError(
            f"{where} has {size / 2**30:.1f} GiB, which take about {size * PARSED / 2**30:.0f} GiB of memory when they "
            f"are parsed, and {free / 2**30:.1f} GiB are free: split it into several files, for example one for each "
            "split or for a part of the images"
        )


def _load(data: bytes, where: str) -> Any:
    try:
        text = data.decode(json.detect_encoding(data))
    except UnicodeDecodeError:
        text = decode_text(data, where)  # says what is wrong
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{where} is not JSON: its lists are nested too deeply") from None
    except json.JSONDecodeError as error:
        position = f"line {error.lineno}, column {error.colno}, character {error.pos} of {len(text)}"
        if not text.strip():
            what = "it is empty"
        elif text.startswith(_LFS):
            what = "it is a Git LFS pointer, not the file itself: fetch that with `git lfs pull`"
        elif error.msg == "Extra data" and text[error.pos] == "{":
            what = f"at {position} a second object begins; COCO is one object, not one a line (JSON lines)"
        elif error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
            what = f"it ends too early, at {position}: copy or export it again"
        elif error.pos == 0:
            what = f"it begins with {text[:30]!r}"
        else:
            what = f"{error.msg} at {position}"
        raise UserError(f"{where} is not JSON: {what}") from None


def _objects(document: Any, key: str, where: str) -> list[dict[str, Any]] | None:
    entries = document.get(key) if isinstance(document, dict) else None
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{where}: `{key}` should be a list of objects")
    return entries


def _instead(entry: Any, key: str) -> str:
    """Says which key an object has in place of `key`, as the end of a sentence."""
    if not isinstance(entry, dict) or not entry:
        return ""
    near = near_key(entry, key)
    return f", but {near!r}" if near is not None else f"; its keys are {', '.join(map(str, list(entry)[:8]))}"


def _categories(document: Mapping[str, Any], where: str, needed: bool) -> dict[Id, Category]:
    entries = _objects(document, "categories", where)
    if entries is None and needed:
        raise UserError(f"{where}: it has no list `categories`{_instead(document, 'categories')}")
    categories: dict[Id, Category] = {}
    for entry in entries or []:
        index, name = identifier(entry.get("id")), entry.get("name")
        name = name.strip() if isinstance(name, str) else ""
        if index is None or not name or (index in categories and categories[index].name != name):
            raise UserError(f"{where}: a category has an id of its own and a name; found {str(entry)[:80]}")
        categories[index] = Category(name, entry.get("supercategory"))
    return categories


def _images(entries: Sequence[dict[str, Any]], own_key: str, where: str) -> list[ImageEntry]:
    """Returns the images; only the first of several entries with the same id and file_name."""
    images: dict[tuple[Any, ...], ImageEntry] = {}
    for number, entry in enumerate(entries):
        file_name, height, width = (entry.get(key) for key in ("file_name", "height", "width"))
        if not isinstance(file_name, str) or not file_name.strip("/\\ "):
            file_name = None
        image = ImageEntry(
            id=identifier(entry.get("id")),
            raw_id=entry.get("id"),
            file_name=file_name,
            nameless="" if file_name else f"its entry in `images` has no file_name{_instead(entry, 'file_name')}",
            own_id=entry.get(own_key),
            height=_side(height),
            width=_side(width),
            wrong_size=None
            if _is_side(height) and _is_side(width)
            else f"`images` gives height {height!r} and width {width!r}; both should be numbers of pixels",
        )
        images.setdefault((image.id, file_name) if image.id is not None and file_name else (number,), image)
    if len(images) < len(entries):
        _log.warning("%s: %d entries of `images` occur twice and are read once", where, len(entries) - len(images))
    unsized = [image for image in images.values() if image.wrong_size is None and None in (image.height, image.width)]
    if unsized:
        _log.info(
            "%s: %d images are listed without height and width; the sizes of their files are used", where, len(unsized)
        )
    return list(images.values())


def _is_side(value: Any) -> bool:
    """True for a number of pixels, and for what says that it is not known: null, NaN, empty text, 0."""
    number = whole_number(value)
    return is_missing(value) or (number is not None and number >= 0)


def _side(value: Any) -> int | None:
    return whole_number(value) or None


def _annotation(entry: Mapping[str, Any], name: str) -> Annotation:
    category, crowd = identifier(entry.get("category_id")), flag(entry.get("iscrowd"))
    segmentation = entry.get("segmentation")
    wrong = None
    if category is None:
        found = (
            _instead(entry, "category_id") if "category_id" not in entry else f": {entry['category_id']!r} is not an id"
        )
        wrong = f"{name} has no category_id{found}"
    elif crowd is None:
        wrong = f"{name} has iscrowd {entry['iscrowd']!r}, which is neither 0 nor 1"
    elif is_empty(segmentation) and not is_empty(entry.get("bbox")):
        wrong = f"{name} has a bbox and no segmentation: a box does not say which pixels are meant"
    elif "segmentation" not in entry:
        wrong = f"{name} has no segmentation{_instead(entry, 'segmentation')}"
    text = json.dumps(segmentation, separators=(",", ":"))
    return Annotation(name, category, bool(crowd), text, size_at_least(segmentation), wrong)


def _largest(sizes: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return max((size[0] for size in sizes), default=0.0), max((size[1] for size in sizes), default=0.0)


def _sides_exchanged(images: Sequence[ImageEntry], annotations: Mapping[Id, Sequence[Annotation]]) -> bool:
    """True where a program exchanged height and width of all images (Pillow has width first, numpy height).

    True if some annotations fit their images only when exchanged, and none fits only as listed.
    """
    exchanged = False
    for image in images:
        if image.id is None or image.height is None or image.width is None:
            continue
        own = annotations.get(image.id, ())
        needed = _largest([one.size for one in own])
        if fits(needed, image.height, image.width) and not fits(needed, image.width, image.height):
            return False
        # an RLE may be transposed itself: its size proves nothing
        polygons = _largest([one.size for one in own if not one.segmentation.startswith("{")])
        exchanged = exchanged or (
            not fits(polygons, image.height, image.width) and fits(polygons, image.width, image.height)
        )
    return exchanged


def _log_other_spellings(where: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Logs the ids that are not JSON integers but are read as numbers by the rule of `coco_values`."""
    found = [
        (key, entry[key])
        for entry in entries
        for key in ("id", "image_id", "category_id")
        if key in entry and type(entry[key]) is not int and whole_number(entry[key]) is not None
    ]
    if found:
        key, value = found[0]
        _log.info(
            "%s: %d ids are spelled as text or floats and are read as whole numbers (%s %r)",
            where,
            len(found),
            key,
            value,
        )


def _why_lost(entry: Mapping[str, Any], image_id: Id | None, images: Sequence[Mapping[str, Any]]) -> str:
    if image_id is not None:
        if not images:
            there = ", since that is empty"
        elif "id" in images[0]:
            there = f"; the first id there is {images[0]['id']!r}"
        else:
            there = f": the entries there have no id{_instead(images[0], 'id')}"
        return f"image_id {image_id!r}, which `images` does not list{there}"
    if "image_id" not in entry:
        return f"no image_id{_instead(entry, 'image_id')}"
    return f"image_id {entry['image_id']!r}, which is not an id (a whole number or a text)"
