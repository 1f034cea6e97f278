"""Does the audit of `data prepare` find what is wrong with images and masks? `python -m experiments audit`."""

from pathlib import Path
from typing import Any

from experiments.foodmix import foodmix, fresh
from experiments.item_queue import Bench, Item, ItemError
from foodseg.data.shards import read_manifest, read_quarantine
from tests.support.faulty_meals import write_faulty_meals


def faults(bench: Bench) -> dict[str, Any]:
    """Fifty faulty records; the near-duplicates across the splits of the real images."""
    source, prepared = fresh(bench.work / "faulty-meals"), fresh(bench.work / "faulty")
    meals = write_faulty_meals(source)
    bench.foodseg("data", "prepare", source, prepared, "--max-bad", "1")
    found: dict[tuple[str, str], set[str]] = {}
    inspected = bench.foodseg("data", "inspect", prepared, "--out", bench.work / "inspect-faulty")
    for row in inspected["findings"]:
        found.setdefault((row["image_id"], row["split"]), set()).add(row["finding"])
    audited = fresh(bench.work / "foodmix-audited")  # prepared by the audit that is shown here
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


ITEMS: list[Item] = [("faults", faults)]
