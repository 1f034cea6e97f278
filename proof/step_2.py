"""Step 2, "Show it": formats, faults, ten thousand pictures, several sets together, the report."""

import csv
import io
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foodseg.bench.memory import PeakMemory
from foodseg.classes import ClassTable
from foodseg.data.formats.coco_export import export_coco
from foodseg.data.formats.detect import list_source
from foodseg.data.plates import PLATE_CLASSES, write_meals
from foodseg.data.record import SourceListing
from foodseg.data.shards import read_manifest, read_quarantine
from proof.proof_queue import Bench, Item, ItemError
from proof.step_1 import SMALL, foodmix, prepared_foodmix, scores_of, sets, weights

MANY = 10_000


def formats(bench: Bench) -> dict[str, Any]:
    """The official layouts, and one data set in three formats: the same masks, pixel for pixel."""
    samples = bench.shared / "datasets" / "layout_samples"
    figures: dict[str, Any] = {}
    for name in ("FoodSeg103", "UECFOODPIXCOMPLETE"):
        prepared = _fresh(bench.work / f"sample-{name}")
        answer = bench.foodseg("data", "prepare", samples / name, prepared)
        figures[name] = {"splits": answer["splits"], "quarantined": answer["quarantined"]}
    figures["FoodSeg103"]["masks_equal"] = _equal_foodseg103(samples / "FoodSeg103")
    figures["UECFOODPIXCOMPLETE"]["masks_equal"] = _equal_uec(samples / "UECFOODPIXCOMPLETE")

    folder = foodmix(bench)
    coco, parquet = _fresh(bench.work / "foodmix-coco"), _fresh(bench.work / "foodmix-parquet")
    export_coco(str(folder), str(coco))
    _write_parquet(folder, parquet)
    reference = list_source(str(folder), "folder")
    for name, copy in (("coco", coco), ("huggingface", parquet)):
        figures[name] = {"masks_equal": _equal_masks(reference, list_source(str(copy)))}
    figures["pycocotools"] = {"masks_equal": _equal_pycocotools(reference, coco)}
    for where in (coco, parquet):
        shutil.rmtree(where)
    return figures


def faults(bench: Bench) -> dict[str, Any]:
    """Fifty faulty records; the near-duplicates across the splits of the real pictures."""
    from tests.faulty_meals import write_faulty_meals

    source, prepared = _fresh(bench.work / "faulty-meals"), _fresh(bench.work / "faulty")
    meals = write_faulty_meals(source)
    bench.foodseg("data", "prepare", source, prepared, "--max-bad", "1")
    found: dict[tuple[str, str], set[str]] = {}
    inspected = bench.foodseg("data", "inspect", prepared, "--out", bench.work / "inspect-faulty")
    for row in inspected["findings"]:
        found.setdefault((row["image_id"], row["split"]), set()).add(row["finding"])
    real = bench.foodseg("data", "inspect", prepared_foodmix(bench), "--out", bench.work / "inspect-foodmix")
    figures = {
        "faulty_records": len(meals.expected),
        "found_and_named": sum(found.get(key) == names for key, names in meals.expected.items()),
        "invented": len(found.keys() - meals.expected.keys()),
        "refused": len(read_quarantine(str(prepared), 1)),
        "foodmix": {kind["finding"]: kind["count"] for kind in real["audit"]},
        "pictures": real["pictures"],
    }
    if figures["found_and_named"] != len(meals.expected) or figures["invented"]:
        raise ItemError(f"the audit is wrong: {figures}")
    return figures


def many(bench: Bench) -> dict[str, Any]:
    """Rows per second and peak memory of `data prepare`, for a thousand and for ten thousand pictures."""
    figures = {}
    for count in (MANY // 10, MANY):
        source, prepared = _fresh(bench.work / f"many-{count}"), _fresh(bench.work / f"many-{count}-prepared")
        _repeat(foodmix(bench), source, count)
        started = time.monotonic()
        with PeakMemory() as memory:
            answer = bench.foodseg("data", "prepare", source, prepared)
        seconds = time.monotonic() - started
        figures[str(count)] = {
            "seconds": round(seconds, 1),
            "rows_per_second": round(count / seconds, 1),
            "quarantined": answer["quarantined"],
            **memory.to_json(),
        }
        shutil.rmtree(source)
        shutil.rmtree(prepared)
    return figures


def several_sets(bench: Bench) -> dict[str, Any]:
    """Real pictures and drawn plates of another label space, trained on together with partial labels."""
    drawn = _fresh(bench.work / "plates-source")
    write_meals(drawn, train=120, test=24, seed=7)
    bench.foodseg("data", "prepare", drawn, _fresh(bench.work / "plates"))
    ours = read_manifest(str(prepared_foodmix(bench))).class_table
    union = ClassTable((*ours.names, *(name for name in PLATE_CLASSES.names if name not in ours.names)))
    (bench.work / "union.tsv").write_text(union.to_text(), encoding="utf-8")
    mapped = {}
    for name, prepared, table in (
        ("foodmix", prepared_foodmix(bench), ours),
        ("plates", bench.work / "plates", PLATE_CLASSES),
    ):
        map_file = bench.work / f"{name}-to-union.tsv"
        _write_map(map_file, name, table, union)
        mapped[name] = _fresh(bench.work / f"{name}-union")
        bench.foodseg("data", "map", prepared, map_file, mapped[name], "--classes", bench.work / "union.tsv")
    run = _fresh(bench.work / "several-run")
    uris = json.dumps([{"uri": str(mapped["foodmix"]), "weight": 1}, {"uri": str(mapped["plates"]), "weight": 0.5}])
    where = (f"data.uris={uris}", f"run.uri={run}", "scaling.num_workers=2", f"model.weights={weights(bench)}")
    longer = tuple(setting.replace("=60", "=300").replace("every=20", "every=100") for setting in SMALL)
    trained = bench.foodseg("train", "--config", "jobs/configs/smoke.yaml", *sets(*where, *longer))
    figures: dict[str, Any] = {"steps": trained["step"], "classes": len(union)}
    for name, data in mapped.items():
        out = bench.work / f"several-scores-{name}"
        answer = bench.foodseg("evaluate", run, "--data", data, "--split", "val", "--out", out)
        figures[name] = {"annotated": _annotated(data), "val": scores_of(answer)}
    return figures


def report(bench: Bench) -> dict[str, Any]:
    """The report of the model that the parity item trained, as people see it."""
    run, out = bench.work / "ours-0", bench.work / "report"
    if not (run / "last.json").exists():
        raise ItemError("the item `parity` trains the model that is reported on: run it first")
    bench.foodseg("evaluate", run, "--data", prepared_foodmix(bench), "--split", "test", "--out", out)
    chromium = shutil.which("chromium")
    if chromium is None:
        raise ItemError("chromium missing: apt-get install chromium")
    for width in (1280, 390):
        shot = out / f"report-{width}.png"
        options = ("--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},6000")
        subprocess.run([chromium, *options, f"--screenshot={shot}", str(out / "report.html")], check=True)
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    kept = ("boundary", "ingredients", "calibration", "temperature")
    return {"bytes": (out / "report.html").stat().st_size, **{name: metrics[name] for name in kept}}


ITEMS: list[Item] = [
    ("formats", formats),
    ("faults", faults),
    ("many", many),
    ("several_sets", several_sets),
    ("report", report),
]


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _equal_masks(reference: SourceListing, copy: SourceListing) -> int:
    """Returns how many masks are equal, pixel for pixel; raises where one is not."""
    truth = {record.image_id: record for record in reference.records}
    for record in copy.records:
        mask, expected = record.mask, truth[record.image_id].mask
        if mask is None or expected is None or not np.array_equal(mask.read(), expected.read()):
            raise ItemError(f"the mask of {record.image_id} differs")
    if len(copy.records) != len(truth) or copy.classes != reference.classes:
        raise ItemError(f"{len(copy.records)} of {len(truth)} records, or another label space")
    return len(truth)


def _equal_pycocotools(reference: SourceListing, coco: Path) -> int:
    from pycocotools.coco import COCO

    truth = {record.image_id: record for record in reference.records}
    equal = 0
    for path in sorted((coco / "annotations").iterdir()):
        document = COCO(str(path))
        for image in document.loadImgs(document.getImgIds()):
            mask = np.zeros((image["height"], image["width"]), np.uint8)
            for annotation in document.loadAnns(document.getAnnIds(imgIds=image["id"])):
                mask[document.annToMask(annotation) == 1] = annotation["category_id"]
            expected = truth[image["file_name"].rsplit(".", 1)[0]].mask
            if expected is None or not np.array_equal(mask, expected.read()):
                raise ItemError(f"pycocotools reads another mask for {image['file_name']}")
            equal += 1
    return equal


def _equal_foodseg103(root: Path) -> int:
    records = list_source(str(root)).records
    for record in records:
        with Image.open(root / "Images" / "ann_dir" / record.split / f"{record.image_id}.png") as picture:
            _refuse_difference(record.image_id, record.mask, np.asarray(picture))
    return len(records)


def _equal_uec(root: Path) -> int:
    records = list_source(str(root)).records
    for record in records:
        (path,) = (root / "data").glob(f"*/{record.split}/mask/{record.image_id}.png")
        with Image.open(path) as picture:
            _refuse_difference(record.image_id, record.mask, np.asarray(picture.convert("RGB"))[:, :, 0])
    return len(records)


def _refuse_difference(image_id: str, mask: Any, expected: np.ndarray) -> None:
    if mask is None or not np.array_equal(mask.read(), expected):
        raise ItemError(f"the mask of {image_id} differs from what Pillow reads")


def _write_parquet(folder: Path, out: Path) -> None:
    """Writes the folder as the `datasets` library does: one Parquet file a split, pictures and labels as bytes."""
    from datasets import Dataset, Features, Value
    from datasets import Image as Picture

    (out / "data").mkdir(parents=True)
    shutil.copyfile(folder / "classes.txt", out / "classes.txt")
    for split in ("train", "test"):
        stems = (folder / f"{split}.txt").read_text(encoding="utf-8").split()
        rows = {
            "image": [str(folder / "images" / f"{stem}.jpg") for stem in stems],
            "label": [str(folder / "masks" / f"{stem}.png") for stem in stems],
            "id": stems,
        }
        features = Features({"image": Picture(), "label": Picture(), "id": Value("string")})
        table = Dataset.from_dict(rows, features=features)
        table.to_parquet(out / "data" / f"{split}-00000-of-00001.parquet")


def _repeat(folder: Path, out: Path, count: int) -> None:
    """Writes `count` pictures: the real ones under new ids, each copy encoded anew, so that no two files are equal."""
    for name in ("images", "masks"):
        (out / name).mkdir(parents=True)
    shutil.copyfile(folder / "classes.txt", out / "classes.txt")
    splits = {split: (folder / f"{split}.txt").read_text(encoding="utf-8").split() for split in ("train", "test")}
    stems = [(stem, split) for split, names in splits.items() for stem in names]
    listed: dict[str, list[str]] = {"train": [], "test": []}
    for number in range(count):
        stem, split = stems[number % len(stems)]
        copy = f"{stem}-{number // len(stems):03d}"
        with Image.open(folder / "images" / f"{stem}.jpg") as picture:
            sink = io.BytesIO()
            picture.convert("RGB").save(sink, "JPEG", quality=70 + number // len(stems))
        (out / "images" / f"{copy}.jpg").write_bytes(sink.getvalue())
        shutil.copyfile(folder / "masks" / f"{stem}.png", out / "masks" / f"{copy}.png")
        listed[split].append(copy)
    for split, names in listed.items():
        (out / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def _write_map(path: Path, name: str, table: ClassTable, union: ClassTable) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([f"{name}_id", f"{name}_name", "union_id", "union_name"])
        for index, own in enumerate(table.names):
            writer.writerow([index, own, union.names.index(own), own])


def _annotated(data: Path) -> dict[str, int]:
    manifest = read_manifest(str(data))
    return {source: len(manifest.classes) if ids is None else len(ids) for source, ids in manifest.annotated.items()}
