"""COCO instances: polygons and RLE in JSON.

    <src>/annotations/instances_train2017.json     or annotations/train.json; with instances, other files are left aside
    <src>/train/_annotations.coco.json             as Roboflow exports it
    <src>/train.json  test.json                    with images/ or the pictures beside

The name of a file, or of Roboflow's folder, tells its split: train, val (valid, validation) or test; a single file
without one is all train. A `file_name` is looked for in images/train2017, images/train, images, train2017, train, the
folder of the JSON and <src>, in this order. Categories get the ids 1..K in the order of their ids in the files, which
have to agree on them; one called "background" gets 0. A file without `annotations` lists unlabelled pictures. How
annotations become a mask: `coco_mask`. The text before `__` in the name of a picture is its source.
"""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foodseg import storage
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.data.formats.coco_mask import CocoMask, CocoShape
from foodseg.data.formats.layout import EXTENSIONS, SPLITS, splits_by_name, visible_names, without_extension
from foodseg.data.record import Encoded, ImageFile, Mask, Record, SourceListing, Unreadable, distinct_ids, source_of
from foodseg.errors import UserError

NEEDS = "annotations/*.json, train/_annotations.coco.json, or a .json beside images/"
ROBOFLOW = "_annotations.coco.json"
OWN_ID = "foodseg_id"  # key of an image: the id that `coco_export` read, which may hold what a file name does not tell

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Annotation:
    name: str
    category: Any  # an id in the file, if the file is right
    crowd: bool
    segmentation: str  # JSON text
    box_only: bool


@dataclass(frozen=True)
class _Document:
    """What is kept of a JSON file. `annotations` by image id, None = for no picture; None where the file has none."""

    path: str
    split: str
    categories: dict[int, str]
    images: list[dict[str, Any]]
    annotations: dict[int | str | None, list[_Annotation]] | None


@dataclass(frozen=True)
class _Found:
    """A record without its final id. `place` is the path of its picture below the source."""

    stem: str
    place: str
    split: str
    image: Encoded
    mask: Mask | None


def missing_in_coco(src: str) -> list[str]:
    """Returns what `src` lacks to be a COCO data set; [] = nothing."""
    paths = _document_paths(src)
    if not paths:
        return ["a .json with annotations"]
    here = visible_names(src)
    beside = "/" in paths[0] or "images" in here or any(name.lower().endswith(EXTENSIONS) for name in here)
    return [] if beside else [f"images/ or pictures beside {paths[0]}"]


def is_loose_json(src: str) -> bool:
    """True where the JSON files lie beside everything else: they may be there for another reason."""
    return not any("/" in path for path in _document_paths(src))


def list_coco(src: str) -> SourceListing:
    """Lists a COCO data set; opens no picture. Malformed entries become records that cannot be read.

    Raises:
        UserError: not this layout, a JSON that is no COCO file, or files that disagree on a category.
    """
    paths = _document_paths(src)
    if not paths:
        raise UserError(f"{storage.redact(src)} holds no COCO annotations; expected {NEEDS}")
    splits = splits_by_name(paths, storage.redact(src))
    paths.sort(key=lambda path: SPLITS.index(splits[path]))
    documents = [_read_document(src, path, splits[path]) for path in paths]
    classes, class_ids = _label_space(documents, storage.redact(src))
    folders = _Folders(src)
    found = [one for document in documents for one in _records(document, class_ids, folders)]
    ids = distinct_ids([one.stem for one in found], [one.place for one in found])
    records = (
        Record(image_id, one.split, source_of(one.stem), one.image, one.mask)
        for image_id, one in zip(ids, found, strict=True)
    )
    return SourceListing(classes, tuple(records))


def _document_paths(src: str) -> list[str]:
    """Returns the paths below `src` of the JSON files that list pictures."""
    here = visible_names(src)
    if "annotations" in here:
        names = _json_files(visible_names(storage.join(src, "annotations")))
        instances = [name for name in names if name.startswith("instances")] or names
        if len(instances) < len(names):
            others = ", ".join(name for name in names if name not in instances)
            _log.info("%s: %s are no instances and are left aside", storage.redact(src), others)
        if instances:
            return [f"annotations/{name}" for name in instances]
    folders = [name for name in here if name.lower() in ("train", "valid", "val", "test")]
    exported = [name for name in folders if storage.exists(storage.join(src, name, ROBOFLOW))]
    return [f"{name}/{ROBOFLOW}" for name in exported] or _json_files(here)


def _json_files(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(".json")]


def _read_document(src: str, path: str, split: str) -> _Document:
    where = storage.redact(storage.join(src, path))
    data = storage.read_bytes(storage.join(src, path))
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is no JSON: {error}") from None
    images, annotations = _objects(document, "images", where), None
    if images is None:
        raise UserError(f"{where} is no COCO file: it has no list `images`")
    entries = _objects(document, "annotations", where)
    if entries is not None:
        annotations = defaultdict(list)
        for number, entry in enumerate(entries, start=1):
            annotations[_id(entry, "image_id")].append(
                _Annotation(
                    name=f"annotation {entry['id']}" if "id" in entry else f"annotation number {number}",
                    category=entry.get("category_id"),
                    crowd=bool(entry.get("iscrowd")),
                    segmentation=json.dumps(entry.get("segmentation"), separators=(",", ":")),
                    box_only=bool(entry.get("bbox")) and not entry.get("segmentation"),
                )
            )
    categories: dict[int, str] = {}
    for entry in _objects(document, "categories", where) or []:
        index, name = entry.get("id"), entry.get("name")
        if type(index) is not int or not isinstance(name, str) or categories.get(index, name) != name:
            raise UserError(f"{where}: a category has a number as id, of its own, and a name; found {str(entry)[:80]}")
        categories[index] = name
    return _Document(path, split, categories, images, annotations)


def _objects(document: Any, key: str, where: str) -> list[dict[str, Any]] | None:
    entries = document.get(key) if isinstance(document, dict) else None
    if entries is None:
        return None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UserError(f"{where}: `{key}` should be a list of objects")
    return entries


def _id(entry: Mapping[str, Any], key: str) -> int | str | None:
    value = entry.get(key)
    return value if isinstance(value, int | str) else None


def _label_space(documents: Sequence[_Document], where: str) -> tuple[ClassTable, dict[int, int]]:
    """Returns the class table and {category id: class id}."""
    names: dict[int, str] = {}
    for document in documents:
        for index, name in document.categories.items():
            if names.setdefault(index, name) != name:
                raise UserError(f"{where}: category {index} is {name!r} in {document.path} and {names[index]!r} before")
    background = [index for index in names if names[index].lower() == "background"]
    ingredients = [index for index in sorted(names) if index not in background]
    try:
        classes = ClassTable(("background", *(names[index] for index in ingredients)))
    except UserError as error:
        raise UserError(f"{where}, `categories`: {error}") from None
    return classes, dict.fromkeys(background, BACKGROUND) | {index: i for i, index in enumerate(ingredients, start=1)}


def _records(document: _Document, class_ids: Mapping[int, int], folders: "_Folders") -> Iterator[_Found]:
    ids = [_id(image, "id") for image in document.images]
    repeated = Counter(ids)
    annotations = document.annotations
    for image_id, image in zip(ids, document.images, strict=True):
        stem, place, encoded = _picture(document, image, folders)
        mask: Mask | None = None
        if annotations is not None and image_id is None:
            mask = Unreadable("its entry in `images` has no id, so that no annotation can name it")
        elif annotations is not None and repeated[image_id] > 1:
            mask = Unreadable(f"image id {image_id} stands {repeated[image_id]} times in `images`")
        elif annotations is not None:
            mask = _mask(image, annotations.get(image_id, []), class_ids)
        yield _Found(stem, place, document.split, encoded, mask)
    for image_id, strays in (annotations or {}).items():
        if image_id is None or image_id not in repeated:
            reason = "no image_id" if image_id is None else f"image_id {image_id}, which `images` does not list"
            have = "has" if len(strays) == 1 else f"and {len(strays) - 1} more have"
            name = f"{document.path}, {strays[0].name}"
            yield _Found(name, name, document.split, Unreadable(f"{strays[0].name} {have} {reason}"), None)


def _picture(document: _Document, image: Mapping[str, Any], folders: "_Folders") -> tuple[str, str, Encoded]:
    """Returns stem and path of a picture, and where it lies."""
    file_name = image.get("file_name")
    if not isinstance(file_name, str) or not file_name.strip("/"):
        name = f"{document.path}, image {image.get('id')}"
        return name, name, Unreadable("its entry in `images` has no file_name")
    path = file_name.replace("\\", "/").strip("/")
    own = image.get(OWN_ID)
    stem = own if isinstance(own, str) and own else without_extension(path.rsplit("/", 1)[-1])
    if ".." in path.split("/"):
        return stem, path, Unreadable(f"file_name {file_name!r} leads out of the data set")
    try:
        place = folders.find(document, path)
        if place is None:
            looked = ", ".join(folder or "the source" for folder in folders.candidates(document))
            return stem, path, Unreadable(f"file_name {file_name!r} is in none of {looked}", "missing_file")
        return stem, place, ImageFile(storage.join(folders.src, place))
    except UserError as error:  # a name that the storage refuses
        return stem, path, Unreadable(str(error))


def _mask(image: Mapping[str, Any], annotations: Sequence[_Annotation], class_ids: Mapping[int, int]) -> Mask:
    height, width = image.get("height"), image.get("width")
    if type(height) is not int or type(width) is not int or min(height, width) < 1:
        return Unreadable(f"`images` gives height {height!r} and width {width!r}; both should be numbers of pixels")
    shapes = []
    for one in annotations:
        if type(one.category) is not int or one.category not in class_ids:
            reason = f"{one.name} has category_id {one.category!r}, which `categories` does not list"
            return Unreadable(reason, "unknown_id")
        if one.box_only:
            return Unreadable(f"{one.name} has a bbox and no segmentation: a box does not tell which pixels are meant")
        shapes.append(CocoShape(one.name, class_ids[one.category], one.crowd, one.segmentation))
    return CocoMask(height, width, tuple(shapes))


class _Folders:
    """Finds pictures below a source; lists each folder once."""

    def __init__(self, src: str) -> None:
        self.src = src
        self._names: dict[str, frozenset[str]] = {}

    def candidates(self, document: _Document) -> list[str]:
        """Returns the folders below the source that a `file_name` may be meant from; "" = the source itself."""
        folder, _, name = document.path.rpartition("/")
        tag = name.rsplit(".", 1)[0].removeprefix("instances_")
        places = [f"images/{tag}", f"images/{document.split}", "images", tag, document.split, folder, ""]
        return list(dict.fromkeys(places))

    def find(self, document: _Document, path: str) -> str | None:
        """Returns the path below the source of the picture that the document calls `path`; None where there is none."""
        for folder in self.candidates(document):
            place = f"{folder}/{path}".strip("/")
            parent, _, name = place.rpartition("/")
            if parent not in self._names:
                self._names[parent] = frozenset(visible_names(storage.join(self.src, parent)))
            if name in self._names[parent]:
                return place
        return None
