"""Are masks read exactly, whatever the format? `python -m experiments formats`."""

import shutil
from typing import Any

from experiments.foodmix import foodmix, fresh
from experiments.formats.compare_masks import (
    equal_foodseg103,
    equal_masks,
    equal_pycocotools,
    equal_uec,
    write_parquet,
)
from experiments.formats.stored_masks import compare_formats
from experiments.item_queue import Bench, Item
from foodseg.annotations.coco_export import export_coco
from foodseg.prepare.formats.detect import list_source


def formats(bench: Bench) -> dict[str, Any]:
    """The official layouts, and one data set in three formats: the same masks, pixel for pixel."""
    samples = bench.shared / "datasets" / "layout_samples"
    figures: dict[str, Any] = {}
    for name in ("FoodSeg103", "UECFOODPIXCOMPLETE"):
        prepared = fresh(bench.work / f"sample-{name}")
        answer = bench.foodseg("data", "prepare", samples / name, prepared)
        figures[name] = {"splits": answer["splits"], "quarantined": answer["quarantined"]}
    figures["FoodSeg103"]["masks_equal"] = equal_foodseg103(samples / "FoodSeg103")
    figures["UECFOODPIXCOMPLETE"]["masks_equal"] = equal_uec(samples / "UECFOODPIXCOMPLETE")

    folder = foodmix(bench)
    coco, parquet = fresh(bench.work / "foodmix-coco"), fresh(bench.work / "foodmix-parquet")
    reference = list_source(str(folder), "folder")
    export_coco(reference.records, reference.classes, str(coco))
    write_parquet(folder, parquet)
    for name, copy in (("coco", coco), ("huggingface", parquet)):
        figures[name] = {"masks_equal": equal_masks(reference, list_source(str(copy)))}
    figures["pycocotools"] = {"masks_equal": equal_pycocotools(reference, coco)}
    for where in (coco, parquet):
        shutil.rmtree(where)
    return figures


def stored_masks(bench: Bench) -> dict[str, Any]:
    """Room and time of the real masks in formats 2 and 3 of a prepared data set."""
    return compare_formats(foodmix(bench) / "masks")


ITEMS: list[Item] = [("formats", formats), ("stored_masks", stored_masks)]
