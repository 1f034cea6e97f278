"""Can data sets of different label spaces be trained on together? `python -m experiments several_sets`."""

import csv
import json
from pathlib import Path
from typing import Any

from experiments.foodmix import fresh, prepared_foodmix, scores_of, sets, weights
from experiments.item_queue import Bench, Item
from foodseg.classes import ClassTable
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, write_meals

SMALL = (
    "train.steps=300", "train.checkpoint_every=100", "train.validate_every=30",
    "augment.longest_side=128", "augment.crop=128", "eval.longest_side=128",
)  # fmt: skip


def several_sets(bench: Bench) -> dict[str, Any]:
    """Real images and synthetic meals of another label space, trained on together with partial labels."""
    synthetic = fresh(bench.work / "synthetic-source")
    write_meals(synthetic, train=120, test=24, seed=7)
    bench.foodseg("data", "prepare", synthetic, fresh(bench.work / "synthetic"))
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
        mapped[name] = fresh(bench.work / f"{name}-union")
        bench.foodseg("data", "map", prepared, map_file, mapped[name], "--classes", bench.work / "union.tsv")
    run = fresh(bench.work / "several-run")
    uris = json.dumps([{"uri": str(mapped["foodmix"]), "weight": 1}, {"uri": str(mapped["synthetic"]), "weight": 0.5}])
    where = (f"data.uris={uris}", f"run.uri={run}", "scaling.num_workers=2", f"model.weights={weights(bench)}")
    trained = bench.foodseg("train", "--config", "jobs/configs/smoke.yaml", *sets(*where, *SMALL))
    figures: dict[str, Any] = {"steps": trained["step"], "classes": len(union)}
    for name, data in mapped.items():
        out = bench.work / f"several-scores-{name}"
        answer = bench.foodseg("evaluate", run, "--data", data, "--split", "val", "--out", out)
        figures[name] = {"annotated": _annotated(data), "val": scores_of(answer)}
    return figures


ITEMS: list[Item] = [("several_sets", several_sets)]


def write_map(path: Path, name: str, table: ClassTable, union: ClassTable) -> None:
    """Writes the map of a label space into one that has all its names."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([f"{name}_id", f"{name}_name", "union_id", "union_name"])
        for index, own in enumerate(table.names):
            writer.writerow([index, own, union.names.index(own), own])


def _annotated(data: Path) -> dict[str, int]:
    manifest = read_manifest(str(data))
    return {source: len(manifest.classes) if ids is None else len(ids) for source, ids in manifest.annotated.items()}
