"""FoodSeg103 as it is downloaded; the case of names may vary.

    FoodSeg103/category_id.txt                            id<TAB>name, 104 lines, 0 = background
    FoodSeg103/ImageSets/{train,test}.txt                 images, one a line, with or without extension
    FoodSeg103/Images/img_dir/{train,test}/00000048.jpg
    FoodSeg103/Images/ann_dir/{train,test}/00000048.png   one channel of class ids

The source is that folder or the one around it. (Wu et al., "A Large-Scale Benchmark for Food Image Segmentation".)
"""

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.prepare.formats.layout import locate, missing, refuse_missing
from foodseg.prepare.formats.split_records import ListedSplit, listed_records
from foodseg.prepare.record import MaskFile, SourceListing

NEEDS = "category_id.txt, ImageSets/train.txt, Images/img_dir/, Images/ann_dir/"
SOURCE = "foodseg103"
_SPLITS = ("train", "test")
FILES = ("category_id.txt", "ImageSets/train.txt", "Images/img_dir/train", "Images/ann_dir/train")


def missing_in_foodseg103(src: str) -> list[str]:
    """Returns what `src` lacks to be a download of FoodSeg103; [] = nothing."""
    return missing(_root(src), FILES)


def list_foodseg103(src: str) -> SourceListing:
    """Lists FoodSeg103; opens no image.

    Raises:
        UserError: not this layout (naming what is missing), or a class table that does not parse.
    """
    refuse_missing(src, missing_in_foodseg103(src), "laid out as FoodSeg103", NEEDS)
    root = _root(src)
    table = locate(root, "category_id.txt")
    splits = [
        ListedSplit(
            split,
            names=locate(root, f"ImageSets/{split}.txt"),
            images=locate(root, f"Images/img_dir/{split}"),
            masks=locate(root, f"Images/ann_dir/{split}"),
        )
        for split in _SPLITS
        if not missing(root, [f"ImageSets/{split}.txt"])
    ]
    return SourceListing(
        ClassTable.from_text(storage.read_text(table), storage.redact(table)),
        listed_records(splits, SOURCE, MaskFile),
    )


def _root(src: str) -> str:
    return src if missing(src, ["FoodSeg103"]) else locate(src, "FoodSeg103")
