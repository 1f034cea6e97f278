"""COCO instances: polygons and RLE in JSON, as common annotation tools write them (see `coco_layout`).

    <src>/annotations/instances_train2017.json   <src>/train/_annotations.coco.json   <src>/result.json   ...

The name of a file, or of its folder, gives its split: train, val (valid, validation) or test; a single file without
one is all train. `coco_images` finds the image of a `file_name`, `coco_document` and `coco_values` read the entries,
and `coco_mask` makes masks of annotations.

Categories get the ids 1..K in the order of their ids in the files, which have to agree on them. One called background
(`_background_`, ...) gets 0; the pixels of one called ignore (`__ignore__`, ...) are ignored; Roboflow's root category
is left out. A file without `annotations` lists unlabelled images. The text before `__` in the name of an image is its
source.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from foodseg import storage
from foodseg.annotations.coco_document import Annotation, Category, Document, ImageEntry, read_document
from foodseg.annotations.coco_export import OWN_ID
from foodseg.annotations.coco_mask import CocoMask, CocoShape
from foodseg.annotations.coco_values import Id
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.data.unread import UnreadImage, UnreadMask
from foodseg.errors import UserError
from foodseg.prepare.formats import coco_layout
from foodseg.prepare.formats.coco_images import ImageFinder, ImageReference, Location
from foodseg.prepare.formats.layout import SPLITS, splits_by_name, without_extension
from foodseg.prepare.record import (
    ImageFile,
    LostAnnotations,
    Record,
    SourceListing,
    Unreadable,
    distinct_ids,
    source_of,
)

NEEDS = coco_layout.NEEDS

_NO_CATEGORY = ("none", None, "")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ListedRecord:
    """A record without its final id. `path` of its image is relative to the source."""

    stem: str
    path: str
    split: str
    image: UnreadImage
    mask: UnreadMask | None


def missing_in_coco(src: str, *, own_location: bool = False) -> list[str]:
    """Returns what `src` lacks to be a COCO data set; [] = nothing.

    Args:
        own_location: count only files in the folders of COCO layouts: other .json files may have another purpose.
    """
    files = coco_layout.find_annotation_files(src, own_location=own_location)
    if files.coco:
        return []
    return [f"{files.paths[0]} with `images`" if files.paths else "a .json with annotations"]


def list_coco(src: str) -> SourceListing:
    """Lists a COCO data set; opens no image. Malformed entries become records that cannot be read.

    Raises:
        UserError: not this layout, a JSON that is not a COCO file, or files that disagree on a category.
    """
    where = storage.redact(src)
    files = coco_layout.find_annotation_files(src)
    paths = list(files.paths)
    if not paths:
        raise UserError(f"{where} holds no COCO annotations; expected {NEEDS}")
    if files.skipped:
        more = f" and {len(files.skipped) - 5} more" if len(files.skipped) > 5 else ""
        _log.info("%s: skipped, since they are not COCO instances: %s%s", where, ", ".join(files.skipped[:5]), more)
    splits = splits_by_name(paths, where)
    paths.sort(key=lambda path: SPLITS.index(splits[path]))
    documents = [read_document(src, path, splits[path], OWN_ID) for path in paths]
    classes, class_ids = _label_space(documents, where)
    finder = ImageFinder(src)
    wanted = [
        ImageReference(document.path, document.split, image.file_name)
        for document in documents
        for image in document.images
        if image.file_name is not None
    ]
    locations = dict(zip(wanted, finder.locate_all(wanted), strict=True))
    _log_unused(documents, locations, finder, where)
    found = [one for document in documents for one in _records(src, document, class_ids, locations)]
    ids = distinct_ids([one.stem for one in found], [one.path for one in found])
    records = (
        Record(image_id, one.split, source_of(one.stem), one.image, one.mask)
        for image_id, one in zip(ids, found, strict=True)
    )
    return SourceListing(classes, tuple(records), lost=_lost(documents))


def _label_space(documents: Sequence[Document], where: str) -> tuple[ClassTable, dict[Id, int]]:
    """Returns the class table and {category id: class id}."""
    categories: dict[Id, Category] = {}
    for document in documents:
        for index, category in document.categories.items():
            before = categories.setdefault(index, category).name
            if before != category.name:
                raise UserError(
                    f"{where}: category {index} is {category.name!r} in {document.path} and {before!r} before"
                )
    for index in _roots(categories, documents):
        _log.info(
            "%s: %r is the root of the other categories, without annotations: left out", where, categories[index].name
        )
        del categories[index]
    meaning = {index: _meaning(category.name) for index, category in categories.items()}
    ordered = sorted(categories, key=lambda index: (isinstance(index, str), index))
    ingredients = [index for index in ordered if meaning[index] == "class"]
    repeated = Counter(categories[index].name for index in ingredients)
    for name in (name for name, count in repeated.items() if count > 1):
        same = " and ".join(str(index) for index in ingredients if categories[index].name == name)
        raise UserError(f"{where}: the categories {same} are both called {name!r}: class names must differ")
    try:
        classes = ClassTable(("background", *(categories[index].name for index in ingredients)))
    except UserError as error:
        raise UserError(f"{where}, `categories`: {error}") from None
    class_ids = {index: number for number, index in enumerate(ingredients, start=1)}
    for index in set(categories) - set(ingredients):
        class_ids[index] = BACKGROUND if meaning[index] == "background" else classes.ignore_id
    return classes, class_ids


def _roots(categories: Mapping[Id, Category], documents: Sequence[Document]) -> list[Id]:
    """Returns Roboflow's root: the first category, the supercategory of the others, without annotations of its own."""
    used = {one.category for document in documents for own in (document.annotations or {}).values() for one in own}
    numbers = [index for index in categories if isinstance(index, int)]
    if len(categories) < 2 or not numbers or min(numbers) in used:
        return []
    first = min(numbers)
    name, own = categories[first].name, categories[first].supercategory
    above = [category.supercategory for index, category in categories.items() if index != first]
    others_belong_to_it = own in _NO_CATEGORY and name in above
    others_belong_to_something = own == "none" and first == 0 and any(one not in _NO_CATEGORY for one in above)
    return [first] if others_belong_to_it or others_belong_to_something else []


def _meaning(name: str) -> Literal["background", "ignore", "class"]:
    """Separates classes from background and ignore, which LabelMe calls `_background_` and `__ignore__`."""
    plain = name.lower()
    if plain.strip("_") == "background":
        return "background"
    return "ignore" if plain in ("_ignore_", "__ignore__") else "class"


def _log_unused(
    documents: Sequence[Document], locations: Mapping[ImageReference, Location], finder: ImageFinder, where: str
) -> None:
    unused = finder.unused([location.path for location in locations.values() if location.path is not None])
    if unused:
        _log.warning(
            "%s: no `images` lists %d images, which are left out; the first is %s", where, len(unused), unused[0]
        )
    for document in documents:
        empty = [image for image in document.images if document.annotations and image.id not in document.annotations]
        if empty:
            _log.info(
                "%s: %d of %d images have no annotation and are all background; the first is %s",
                document.path, len(empty), len(document.images), empty[0].file_name,
            )  # fmt: skip


def _records(
    src: str, document: Document, class_ids: Mapping[Id, int], locations: Mapping[ImageReference, Location]
) -> Iterator[_ListedRecord]:
    ids = Counter(image.id for image in document.images)
    spellings: dict[Id | None, set[str]] = defaultdict(set)
    for image in document.images:
        spellings[image.id].add(repr(image.raw_id))
    for image in document.images:
        stem, path, unread = _image(src, document, image, locations)
        mask: UnreadMask | None = None
        if document.annotations is not None and image.id is None:
            found = "no id" if image.raw_id is None else f"the id {image.raw_id!r}"
            mask = Unreadable(f"its entry in `images` has {found}, so that no annotation can refer to it")
        elif document.annotations is not None and ids[image.id] > 1:
            spelled = sorted(spellings[image.id])
            same = f", as {' and '.join(spelled)}" if len(spelled) > 1 else ""
            mask = Unreadable(f"image id {image.id} occurs {ids[image.id]} times in `images`{same}")
        elif document.annotations is not None and image.id is not None:
            mask = _mask(image, unread, document.annotations.get(image.id, []), class_ids)
        yield _ListedRecord(stem, path, document.split, unread, mask)
    for lost in document.lost:
        have = "has" if lost.count == 1 else f"and {lost.count - 1} more have"
        name = f"{document.path}, {lost.first}"
        yield _ListedRecord(name, name, document.split, Unreadable(f"{lost.first} {have} {lost.reason}"), None)


def _image(
    src: str, document: Document, image: ImageEntry, locations: Mapping[ImageReference, Location]
) -> tuple[str, str, UnreadImage]:
    """Returns stem, path and location of an image."""
    if image.file_name is None:
        name = f"{document.path}, image {image.raw_id}"
        return name, name, Unreadable(image.nameless)
    location = locations[ImageReference(document.path, document.split, image.file_name)]
    path = location.path or image.file_name.replace("\\", "/").strip("/")
    stem = (
        image.own_id if isinstance(image.own_id, str) and image.own_id else without_extension(path.rsplit("/", 1)[-1])
    )
    if location.path is None:
        return stem, path, Unreadable(location.reason, "missing_file")
    try:
        return stem, path, ImageFile(storage.join(src, location.path))
    except UserError as error:  # a name that the storage does not allow
        return stem, path, Unreadable(str(error))


def _mask(
    image: ImageEntry, unread: UnreadImage, annotations: Sequence[Annotation], class_ids: Mapping[Id, int]
) -> UnreadMask:
    if image.wrong_size is not None:
        return Unreadable(image.wrong_size)
    shapes = []
    for one in annotations:
        if one.wrong is not None:
            return Unreadable(one.wrong)
        if one.category is None or one.category not in class_ids:
            reason = f"{one.name} has category_id {one.category!r}, which `categories` does not list"
            return Unreadable(reason, "unknown_id")
        shapes.append(CocoShape(one.name, class_ids[one.category], one.crowd, one.segmentation))
    return CocoMask(image.height, image.width, tuple(shapes), unread)


def _lost(documents: Sequence[Document]) -> LostAnnotations | None:
    if all(document.annotations is None for document in documents):
        return None
    reasons = [(document.path, lost) for document in documents for lost in document.lost]
    said = f"{reasons[0][0]}, {reasons[0][1].first} has {reasons[0][1].reason}" if reasons else ""
    count = sum(lost.count for _, lost in reasons)
    return LostAnnotations(count, sum(document.total for document in documents), said)
