"""The folder format: one folder of pictures, one of masks, one text file per split.

    <src>/images/<stem>.jpg        (or .jpeg .png .webp .bmp .tif .tiff)
    <src>/masks/<stem>.png         one channel of class ids; a picture without a mask file is unlabelled
    <src>/classes.txt              id<TAB>name, 0 = background
    <src>/train.txt  test.txt  [val.txt]   stems, one a line
    <src>/sources.tsv              optional, as for every format (see `detect` and `data/sources.py`)

The text before `__` in a stem is its source ("canteen__0001" comes from "canteen").
"""

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.formats.layout import SPLITS, by_stem, refuse_missing, visible_names
from foodseg.data.record import ImageFile, MaskFile, Record, SourceListing, source_of

FILES = ("images", "masks", "classes.txt", "train.txt")
NEEDS = "images/, masks/, classes.txt, train.txt"


def missing_in_folder(src: str) -> list[str]:
    """Returns what `src` lacks to be in the folder format; [] = nothing."""
    here = visible_names(src)
    return [name for name in FILES if name not in here]


def list_folder(src: str) -> SourceListing:
    """Lists what is in a folder-format data set; opens no picture.

    Raises:
        UserError: not this format (naming what is missing), or a class table that does not parse.
    """
    needs = "images/, masks/, classes.txt (id<TAB>name), train.txt and optionally val.txt, test.txt (stems)"
    refuse_missing(src, missing_in_folder(src), "in the folder format", needs)
    classes = ClassTable.from_text(
        storage.read_text(storage.join(src, "classes.txt")), storage.redact(storage.join(src, "classes.txt"))
    )
    here = visible_names(src)
    images = by_stem(visible_names(storage.join(src, "images")))
    masks = by_stem(visible_names(storage.join(src, "masks")), (".png",))
    records = []
    for split in SPLITS:
        if f"{split}.txt" not in here:
            continue
        for stem in storage.read_text(storage.join(src, f"{split}.txt")).split("\n"):
            if stem := stem.strip():
                records.append(_record(src, stem, split, images, masks))
    return SourceListing(classes, tuple(records))


def _record(src: str, stem: str, split: str, images: dict[str, str], masks: dict[str, str]) -> Record:
    return Record(
        image_id=stem,
        split=split,
        source=source_of(stem),
        image=ImageFile(storage.join(src, "images", images.get(stem, f"{stem}.jpg"))),
        mask=MaskFile(storage.join(src, "masks", masks[stem])) if stem in masks else None,
    )
