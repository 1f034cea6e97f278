"""The identity of a source: the same while nothing has changed, another one as soon as anything has."""

import os
from pathlib import Path

import pytest

from foodseg.annotations.coco_export import export_coco
from foodseg.cluster.shard_plan import plan_identity
from foodseg.demo.synthetic import write_meals
from foodseg.prepare.formats.detect import list_source
from foodseg.prepare.record_batches import RecordBatches
from foodseg.prepare.source_identity import source_parts


@pytest.fixture
def meals(tmp_path: Path) -> Path:
    write_meals(tmp_path / "meals", train=3, test=1, seed=1, longest_side=64)
    return tmp_path / "meals"


def parts(source: Path) -> list[str]:
    listing = list_source(str(source))
    with RecordBatches(listing.records) as listed:
        return list(source_parts(listing.classes, listed))


def identity(source: Path) -> str:
    return plan_identity(parts(source))


def test_it_is_the_same_for_the_same_files_and_says_no_addresses(meals: Path) -> None:
    assert identity(meals) == identity(meals)
    (meals / "images" / "unlisted.txt").write_text("not part of it")
    before = parts(meals)
    assert not [part for part in before if " at 0x" in part]  # of an object without a representation of its own
    (meals / "images" / "unlisted.txt").write_text("changed")
    assert parts(meals) == before


def test_a_changed_file_list_or_class_table_changes_it(meals: Path) -> None:
    made = [identity(meals)]
    image, mask = meals / "images" / "synthetic__0001.jpg", meals / "masks" / "synthetic__0001.png"
    image.write_bytes(image.read_bytes() + b"\0")
    made.append(identity(meals))
    found = mask.stat()  # the same size, written later
    os.utime(mask, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
    made.append(identity(meals))
    mask.unlink()
    made.append(identity(meals))
    train = meals / "train.txt"
    train.write_text("\n".join(train.read_text().split()[:-1]))
    made.append(identity(meals))
    classes = meals / "classes.txt"
    classes.write_text(classes.read_text().rstrip() + " and more")
    made.append(identity(meals))
    assert len(set(made)) == len(made)


def test_annotations_in_one_file_count_too(meals: Path, tmp_path: Path) -> None:
    listing = list_source(str(meals))
    export_coco(listing.records, listing.classes, str(tmp_path / "coco"))
    before = identity(tmp_path / "coco")
    assert identity(tmp_path / "coco") == before
    path = tmp_path / "coco" / "annotations" / "instances_test.json"
    path.write_text(path.read_text().replace('"iscrowd": 0', '"iscrowd": 1'))
    assert identity(tmp_path / "coco") != before
