"""Step 2, "Show it": formats, faults, ten thousand images, several sets together, the report."""

import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from foodseg.annotations.coco_export import export_coco
from foodseg.bench.memory import PeakMemory
from foodseg.classes import ClassTable
from foodseg.data.shards import read_manifest, read_quarantine
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, write_meals
from foodseg.metrics.per_image import merge, read_image_counts
from foodseg.prepare.formats.detect import list_source
from proof.data_copies import (
    equal_foodseg103,
    equal_masks,
    equal_pycocotools,
    equal_uec,
    repeat,
    write_map,
    write_parquet,
)
from proof.proof_queue import Bench, Item, ItemError
from proof.screenshots import screenshot
from proof.step_1 import SMALL, foodmix, prepared_foodmix, scores_of, sets, weights

MANY = 10_000
REPORT_STEPS = 1_010  # jobs/configs/foodmix.yaml: 20 epochs of 404 images, 8 at a time
WORST = 3  # classes that the report's figures name, and confusions of each


def formats(bench: Bench) -> dict[str, Any]:
    """The official layouts, and one data set in three formats: the same masks, pixel for pixel."""
    samples = bench.shared / "datasets" / "layout_samples"
    figures: dict[str, Any] = {}
    for name in ("FoodSeg103", "UECFOODPIXCOMPLETE"):
        prepared = _fresh(bench.work / f"sample-{name}")
        answer = bench.foodseg("data", "prepare", samples / name, prepared)
        figures[name] = {"splits": answer["splits"], "quarantined": answer["quarantined"]}
    figures["FoodSeg103"]["masks_equal"] = equal_foodseg103(samples / "FoodSeg103")
    figures["UECFOODPIXCOMPLETE"]["masks_equal"] = equal_uec(samples / "UECFOODPIXCOMPLETE")

    folder = foodmix(bench)
    coco, parquet = _fresh(bench.work / "foodmix-coco"), _fresh(bench.work / "foodmix-parquet")
    reference = list_source(str(folder), "folder")
    export_coco(reference.records, reference.classes, str(coco))
    write_parquet(folder, parquet)
    for name, copy in (("coco", coco), ("huggingface", parquet)):
        figures[name] = {"masks_equal": equal_masks(reference, list_source(str(copy)))}
    figures["pycocotools"] = {"masks_equal": equal_pycocotools(reference, coco)}
    for where in (coco, parquet):
        shutil.rmtree(where)
    return figures


def faults(bench: Bench) -> dict[str, Any]:
    """Fifty faulty records; the near-duplicates across the splits of the real images."""
    from tests.support.faulty_meals import write_faulty_meals

    source, prepared = _fresh(bench.work / "faulty-meals"), _fresh(bench.work / "faulty")
    meals = write_faulty_meals(source)
    bench.foodseg("data", "prepare", source, prepared, "--max-bad", "1")
    found: dict[tuple[str, str], set[str]] = {}
    inspected = bench.foodseg("data", "inspect", prepared, "--out", bench.work / "inspect-faulty")
    for row in inspected["findings"]:
        found.setdefault((row["image_id"], row["split"]), set()).add(row["finding"])
    audited = _fresh(bench.work / "foodmix-audited")  # prepared by the audit that is shown here
    bench.foodseg("data", "prepare", foodmix(bench), audited)
    real = bench.foodseg("data", "inspect", audited, "--out", bench.work / "inspect-foodmix")
    figures = {
        "faulty_records": len(meals.expected),
        "found_and_named": sum(found.get(key) == names for key, names in meals.expected.items()),
        "invented": len(found.keys() - meals.expected.keys()),
        "refused": len(read_quarantine(str(prepared), read_manifest(str(prepared)).folder)),
        "foodmix": twins(real),
    }
    if figures["found_and_named"] != len(meals.expected) or figures["invented"]:
        raise ItemError(f"the audit is wrong: {figures}")
    return figures


def twins(inspected: dict[str, Any]) -> dict[str, Any]:
    """What `data inspect` says of real images: findings, near-duplicates across splits, names of its own images."""
    if inspected["findings"] is None:
        raise ItemError(f"{inspected['data']} was prepared without findings")
    pairs = [row for row in inspected["findings"] if row["finding"] == "near_duplicate"]
    shared = {f"{row['split']} with one in {row['other']}": row["images"] for row in inspected["shared_groups"]}
    return {
        "findings": {kind["finding"]: kind["count"] for kind in inspected["audit"]},
        "near_duplicate_pairs": len(pairs),
        "shared_groups": shared,
        "test_images_with_a_twin_in_train": shared.get("test with one in train", 0),
        "images": {name: Path(where).name for name, where in inspected["images"].items()},
    }


def many(bench: Bench) -> dict[str, Any]:
    """Rows per second and peak memory of `data prepare`, for a thousand and for ten thousand images."""
    figures: dict[str, Any] = {}
    for count in (MANY // 10, MANY):
        source, prepared = _fresh(bench.work / f"many-{count}"), _fresh(bench.work / f"many-{count}-prepared")
        repeat(foodmix(bench), source, count)
        started = time.monotonic()
        with PeakMemory() as memory:
            answer = bench.foodseg("data", "prepare", source, prepared)
        seconds = time.monotonic() - started
        figures[str(count)] = {
            "seconds": round(seconds, 1),
            "rows_per_second": round(count / seconds, 1),
            "quarantined": answer["quarantined"],
            **asdict(memory.peaks()),
        }
        shutil.rmtree(source)
        shutil.rmtree(prepared)
    figures["ratio"] = memory_ratio(figures[str(MANY // 10)], figures[str(MANY)])
    return figures


def memory_ratio(few: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    """How much more memory the larger job took: its largest process, and each process that both jobs had."""
    before, after = few["processes_mib"], many["processes_mib"]
    return {
        "largest_process": round(many["largest_process_mib"] / few["largest_process_mib"], 3),
        "processes": {name: round(after[name] / before[name], 3) for name in before if before[name] and name in after},
    }


def several_sets(bench: Bench) -> dict[str, Any]:
    """Real images and synthetic meals of another label space, trained on together with partial labels."""
    synthetic = _fresh(bench.work / "synthetic-source")
    write_meals(synthetic, train=120, test=24, seed=7)
    bench.foodseg("data", "prepare", synthetic, _fresh(bench.work / "synthetic"))
    ours = read_manifest(str(prepared_foodmix(bench))).class_table
    union = ClassTable((*ours.names, *(name for name in SYNTHETIC_CLASSES.names if name not in ours.names)))
    (bench.work / "union.tsv").write_text(union.to_text(), encoding="utf-8")
    mapped = {}
    for name, prepared, table in (
        ("foodmix", prepared_foodmix(bench), ours),
        ("synthetic", bench.work / "synthetic", SYNTHETIC_CLASSES),
    ):
        map_file = bench.work / f"{name}-to-union.tsv"
        write_map(map_file, name, table, union)
        mapped[name] = _fresh(bench.work / f"{name}-union")
        bench.foodseg("data", "map", prepared, map_file, mapped[name], "--classes", bench.work / "union.tsv")
    run = _fresh(bench.work / "several-run")
    uris = json.dumps([{"uri": str(mapped["foodmix"]), "weight": 1}, {"uri": str(mapped["synthetic"]), "weight": 0.5}])
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
    """The report of a model with calibrated confidences, as people see it: on a screen and on a telephone."""
    out = bench.work / "report"
    metrics = bench.foodseg(
        "evaluate", _train_reported(bench), "--data", prepared_foodmix(bench), "--split", "test", "--out", out
    )
    if metrics["calibration_note"].startswith("not calibrated"):
        raise ItemError(f"the confidences of the report are {metrics['calibration_note']}")
    for width in (1280, 390):
        screenshot(out / "report.html", width, out / f"report-{width}.png")
    images, about = read_image_counts(str(out / "images.parquet"))
    kept = ("boundary", "ingredients", "calibration", "calibration_note", "temperature")
    return {
        "scores": scores_of(metrics),
        "bytes": (out / "report.html").stat().st_size,
        "worst_classes": worst_classes(merge(images, len(about.classes)), about.classes),
        **{name: metrics[name] for name in kept},
    }


def worst_classes(matrix: np.ndarray, names: list[str]) -> list[dict[str, Any]]:
    """The WORST classes with truth pixels, of least IoU first, and what they are confused with most.

    Args:
        matrix: (K, K) whole numbers, rows truth, columns prediction. names: K class names.
    """
    hits, truth, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = hits / np.maximum(1, truth + predicted - hits)
    present = [int(index) for index in np.argsort(iou, kind="stable") if truth[index]]
    found = []
    for index in present[:WORST]:
        others = [int(other) for other in np.argsort(-matrix[index], kind="stable") if other != index]
        taken = [other for other in others[:WORST] if matrix[index, other]]
        found.append(
            {
                "class": names[index],
                "iou": float(iou[index]),
                "truth_pixels": int(truth[index]),
                "taken_for": {names[other]: float(matrix[index, other] / truth[index]) for other in taken},
            }
        )
    return found


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


def _train_reported(bench: Bench) -> Path:
    """Trains or resumes a run that is validated, so that its confidences are calibrated."""
    run = bench.work / "report-run"
    last, begun = run / "last.json", (run / "config.yaml").exists()
    if last.exists() and json.loads(last.read_text(encoding="utf-8"))["step"] >= REPORT_STEPS:
        return run
    where = (f"data.uri={prepared_foodmix(bench)}", f"run.uri={run}", f"model.weights={weights(bench)}")
    settings = sets(*where, "data.val_split=val")
    bench.foodseg("train", "--config", "jobs/configs/foodmix.yaml", *settings, *(["--resume"] if begun else []))
    return run


def _annotated(data: Path) -> dict[str, int]:
    manifest = read_manifest(str(data))
    return {source: len(manifest.classes) if ids is None else len(ids) for source, ids in manifest.annotated.items()}
