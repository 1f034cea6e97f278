"""The folder format: one folder of images, one of masks, one text file per split.

    <src>/images/<stem>.jpg        (or .jpeg .png .webp .bmp .tif .tiff), also in folders of images/
    <src>/masks/<stem>.png         class ids (or .tif .bmp, .webp without loss); an image without mask is unlabelled
    <src>/classes.txt              id<TAB>name, 0 = background
    <src>/train.txt  test.txt  [val.txt]   images, one a line
    <src>/sources.tsv              optional, as for every format (see `detect` and `data/sources.py`)

Without lists, folders images/train, images/val and images/test are the splits.

The text before `__` in the name of an image is its source ("canteen__0001" comes from "canteen").
"""

import logging

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.prepare.formats.file_index import FileIndex
from foodseg.prepare.formats.layout import SPLITS, locate, missing, refuse_missing, visible_names
from foodseg.prepare.formats.mask_files import find_masks
from foodseg.prepare.formats.mask_names import EXTENSIONS as MASKS
from foodseg.prepare.formats.split_lists import ListedImage, read_list
from foodseg.prepare.record import MaskFile, Record, SourceListing, source_of

FILES = ("images", "masks", "classes.txt", "train.txt")
NEEDS = "images/, masks/, classes.txt, train.txt"

_ALSO = {"train": (), "val": ("valid", "validation"), "test": ("testing",)}
# names that other tools use for the same; an error mentions them
_NEAR = {
    "images": ("image", "img", "imgs", "jpegimages", "photos", "pictures"),
    "masks": (
        "mask", "labels", "label", "annotations", "annotation", "gt", "segmentation", "segmentations", "seg",
        "segmentationclass", "groundtruth", "ground_truth",
    ),
    "classes.txt": ("classes.tsv", "classes.csv", "labels.txt", "labelmap.txt", "class_names.txt", "category_id.txt"),
    "train.txt": ("training.txt", "trainval.txt", "train.csv", "train.tsv", "train.lst", "all.txt"),
}  # fmt: skip

_log = logging.getLogger(__name__)


def missing_in_folder(src: str) -> list[str]:
    """Returns what `src` lacks to be in the folder format, and what it has instead; [] = nothing."""
    absent = missing(src, FILES)
    if absent == ["train.txt"] and _split_folders(src):
        return []
    if not absent or len(absent) == len(FILES):
        return absent
    here = visible_names(src)
    return [_with_near(name, here) for name in absent]


def list_folder(src: str) -> SourceListing:
    """Lists what is in a folder-format data set; opens no image.

    Raises:
        UserError: not this format (naming what is missing), a class table or a list that does not parse.
        DataRefused: there are masks, but none belongs to an image.
    """
    needs = "images/, masks/, classes.txt (id<TAB>name), train.txt and optionally val.txt, test.txt (stems)"
    refuse_missing(src, missing_in_folder(src), "in the folder format", needs)
    table = locate(src, "classes.txt")
    classes = ClassTable.from_text(storage.read_text(table), storage.redact(table))
    images, masks = FileIndex(locate(src, "images")), FileIndex(locate(src, "masks"), MASKS)
    lines = [(split, line) for split, uri in _lists(src) for line in read_list(uri, images)]
    if missing(src, ["train.txt"]):
        lines = _lines_by_folder(src, images)
    labels = find_masks(images, masks, [line for _, line in lines], MaskFile)
    records = (
        Record(
            image_id=line.stem,
            split=split,
            source=source_of(line.stem.rsplit("/", 1)[-1]),
            image=line.image(images),
            mask=labels.get(line.key),
        )
        for split, line in lines
    )
    return SourceListing(classes, tuple(records))


def _lists(src: str) -> list[tuple[str, str]]:
    """Returns the splits and the URIs of their lists."""
    here = {name.lower(): name for name in visible_names(src)}
    found = []
    for split in SPLITS:
        names = [here[f"{word}.txt"] for word in (split, *_ALSO[split]) if f"{word}.txt" in here]
        if names:
            found.append((split, storage.join(src, names[0])))
        if names and not names[0].lower().startswith(f"{split}."):
            _log.info("%s: %s is taken for the list of %s", storage.redact(src), names[0], split)
        for other in names[1:]:
            _log.warning("%s: %s is not read, since %s is there", storage.redact(src), other, names[0])
    return found


def _split_folders(src: str) -> dict[str, str]:
    """Returns the split of each folder of images/ that is named after one; {} where train is not among them."""
    words = {word: split for split in SPLITS for word in (split, *_ALSO[split])}
    names = [name for name in visible_names(locate(src, "images")) if name.lower() in words]
    found = {name: words[name.lower()] for name in names}
    return found if "train" in found.values() else {}


def _lines_by_folder(src: str, images: FileIndex) -> list[tuple[str, ListedImage]]:
    folders = _split_folders(src)
    _log.info("%s has no lists: the splits are the folders %s of images/", storage.redact(src), ", ".join(folders))
    paths = [path for path in images.everything() if path.split("/")[0] in folders]
    return [(folders[path.split("/")[0]], ListedImage(path, path)) for path in paths if "/" in path]


def _with_near(name: str, here: list[str]) -> str:
    near = [one for one in here if one.lower() in _NEAR[name]]
    return f"{name} ({near[0]} is there: rename it)" if near else name
