"""The folder format: one folder of pictures, one of masks, one text file per split.

    <src>/images/<stem>.jpg        (or .jpeg .png .webp .bmp .tif .tiff)
    <src>/masks/<stem>.png         one channel of class ids; a picture without a mask file is unlabelled
    <src>/classes.txt              id<TAB>name, 0 = background
    <src>/train.txt  test.txt  [val.txt]   stems, one a line

The text before `__` in a stem is its source ("canteen__0001" comes from "canteen").
"""

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.record import ImageFile, MaskFile, Record, SourceListing
from foodseg.errors import UserError

SPLITS = ("train", "val", "test")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def list_folder(src: str) -> SourceListing:
    """Lists what is in a folder-format data set; opens no picture.

    Raises:
        UserError: not this format (naming what is missing), or a class table that does not parse.
    """
    here = set(storage.list_names(src))
    missing = [name for name in ("images", "masks", "classes.txt", "train.txt") if name not in here]
    if missing:
        raise UserError(
            f"{storage.redact(src)} is not in the folder format: {', '.join(missing)} missing; "
            "expected images/, masks/, classes.txt (id<TAB>name), train.txt and optionally val.txt, test.txt (stems)"
        )
    classes = ClassTable.from_text(
        storage.read_text(storage.join(src, "classes.txt")), storage.redact(storage.join(src, "classes.txt"))
    )
    images = _by_stem(storage.list_names(storage.join(src, "images")), EXTENSIONS)
    masks = _by_stem(storage.list_names(storage.join(src, "masks")), (".png",))
    records = []
    for split in SPLITS:
        if f"{split}.txt" not in here:
            continue
        for stem in storage.read_text(storage.join(src, f"{split}.txt")).split("\n"):
            if stem := stem.strip():
                records.append(_record(src, stem, split, images, masks))
    if not records:
        raise UserError(f"{storage.redact(src)}: the split files list no pictures")
    return SourceListing(classes, tuple(records))


def _record(src: str, stem: str, split: str, images: dict[str, str], masks: dict[str, str]) -> Record:
    return Record(
        image_id=stem,
        split=split,
        source=stem.partition("__")[0] if "__" in stem else "",
        image=ImageFile(storage.join(src, "images", images.get(stem, f"{stem}.jpg"))),
        mask=MaskFile(storage.join(src, "masks", masks[stem])) if stem in masks else None,
    )


def _by_stem(names: list[str], extensions: tuple[str, ...]) -> dict[str, str]:
    return {name.rsplit(".", 1)[0]: name for name in names if name.lower().endswith(extensions)}
