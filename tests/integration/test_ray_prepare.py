"""Preparing on Ray: every valid record is in a shard, every other one is refused by name."""

import doctest
import json
import logging
import os
import re
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from foodseg.annotations.coco_export import export_coco
from foodseg.data.image_io import decode_image, decode_mask, resize_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import SCHEMA, Manifest, read_findings, read_manifest, read_quarantine
from foodseg.demo.synthetic import write_meals
from foodseg.errors import DataRefused, RetryLater, UserError
from foodseg.prepare import ray_prepare
from foodseg.prepare.audit import audit_record
from foodseg.prepare.formats.detect import list_source
from foodseg.prepare.ray_prepare import prepare_dataset
from tests.support.logged_prepare import log_tasks


@pytest.fixture(scope="module")
def meals(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("meals")
    write_meals(folder, train=20, test=4, seed=1, longest_side=64)
    (folder / "images" / "synthetic__0002.jpg").write_bytes(b"no image")
    (folder / "masks" / "synthetic__0003.png").unlink()  # unlabelled, which is allowed
    return folder


def test_every_record_is_in_a_shard_or_in_the_quarantine(ray_cluster, meals, tmp_path):
    uri = str(tmp_path / "prepared")
    manifest = prepare_dataset(str(meals), uri, max_bad=0.1)

    assert manifest == read_manifest(uri)
    quarantine = read_quarantine(uri, manifest.folder)
    assert [(q["image_id"], q["source"], q["split"]) for q in quarantine] == [("synthetic__0002", "synthetic", "train")]
    assert "plain text" in quarantine[0]["reason"] and quarantine[0]["findings"] == ["other_format"]
    assert manifest.audit == {"other_format": 1, "unlabelled": 1}
    carved = {row["image_id"]: row["split"] for row in read_findings(uri, manifest.folder)}["synthetic__0003"]
    assert "synthetic__0003" in RowReader(uri, manifest, [carved]).column("image_id").to_pylist()
    listed = [stem for split in ("train", "test") for stem in (meals / f"{split}.txt").read_text().split()]
    kept = [
        image_id
        for split in manifest.counts
        for image_id in RowReader(uri, manifest, [split]).column("image_id").to_pylist()
    ]
    assert sorted([*kept, "synthetic__0002"]) == sorted(listed)
    assert manifest.counts["train"].images + manifest.counts["val"].images == 19
    assert sum(counts.unlabelled for counts in manifest.counts.values()) == 1


def test_the_example_of_its_docstring(ray_cluster, tmp_path, monkeypatch):
    write_meals(tmp_path / "meals", train=10, test=3, seed=0, longest_side=64)
    monkeypatch.chdir(tmp_path)
    (example,) = [found for found in doctest.DocTestFinder().find(prepare_dataset, "prepare_dataset") if found.examples]
    said = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=said.append).failed == 0, "".join(said)


def test_pixels_are_those_of_the_source(ray_cluster, meals, tmp_path):
    uri = str(tmp_path / "prepared")
    manifest = prepare_dataset(str(meals), uri, max_bad=0.1)

    reader = RowReader(uri, manifest, ["test"])
    total = np.zeros(len(manifest.classes), np.int64)
    for row in reader.take(range(len(reader))).to_pylist():
        mask = cv2.imread(str(meals / "masks" / f"{row['image_id']}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(decode_mask(row["mask"]), mask)
        assert row["image"] == (meals / "images" / f"{row['image_id']}.jpg").read_bytes()
        total += np.bincount(mask.ravel(), minlength=len(total))
    assert manifest.counts["test"].class_pixels == tuple(total.tolist())


def test_larger_images_become_smaller_once_and_others_stay(ray_cluster, meals, tmp_path):
    uri = str(tmp_path / "prepared")
    manifest = prepare_dataset(str(meals), uri, max_bad=0.1, longest_side=50)
    assert manifest.longest_side == read_manifest(uri).longest_side == 50
    reader = RowReader(uri, manifest, ["test"])
    total = np.zeros(len(manifest.classes), np.int64)
    for row in reader.take(range(len(reader)), SCHEMA.names).to_pylist():
        mask = cv2.imread(str(meals / "masks" / f"{row['image_id']}.png"), cv2.IMREAD_UNCHANGED)
        assert max(mask.shape) == 64 and max(row["height"], row["width"]) == 50
        small = decode_mask(row["mask"])
        assert np.array_equal(small, resize_mask(mask, row["height"], row["width"]))
        assert decode_image(row["image"]).shape == (*small.shape, 3)
        pixels = np.bincount(small.ravel(), minlength=len(total))
        assert row["ingredient_pixels"] == pixels[row["ingredients"]].tolist()
        total += pixels
    assert manifest.counts["test"].class_pixels == tuple(total.tolist())

    same = prepare_dataset(str(meals), str(tmp_path / "same"), max_bad=0.1, longest_side=64)
    reader = RowReader(str(tmp_path / "same"), same, ["test"])
    for row in reader.take(range(len(reader))).to_pylist():
        assert row["image"] == (meals / "images" / f"{row['image_id']}.jpg").read_bytes()


def test_a_second_preparation_is_refused_or_switches_to_the_next_generation(ray_cluster, meals, tmp_path):
    uri = str(tmp_path / "prepared")
    prepare_dataset(str(meals), uri, max_bad=0.1)
    with pytest.raises(UserError, match="--overwrite"):
        prepare_dataset(str(meals), uri, max_bad=0.1)

    assert prepare_dataset(str(meals), uri, max_bad=0.1, overwrite=True).generation == 2
    assert read_manifest(uri).generation == 2


def test_too_many_bad_records_are_refused_and_nothing_is_switched(ray_cluster, meals, tmp_path):
    uri = str(tmp_path / "prepared")
    with pytest.raises(DataRefused, match=r"1 of 24 records are bad, a share of 0.0417, .*synthetic__0002"):
        prepare_dataset(str(meals), uri)
    assert not (tmp_path / "prepared" / "dataset.json").exists()


def test_a_split_without_food_and_annotations_of_no_image_are_refused_and_nothing_is_switched(ray_cluster, tmp_path):
    write_meals(tmp_path / "meals", train=4, test=2, seed=2, longest_side=64)
    listing = list_source(str(tmp_path / "meals"))
    export_coco(listing.records, listing.classes, str(tmp_path / "coco"))
    test = tmp_path / "coco/annotations/instances_test.json"
    tree = json.loads(test.read_text())
    test.write_text(json.dumps({**tree, "annotations": []}))
    with pytest.raises(
        DataRefused, match=r"coco has no labelled food pixel in test \(test: 2 images, 2 with background"
    ):
        prepare_dataset(str(tmp_path / "coco"), str(tmp_path / "out"))
    test.write_text(json.dumps({**tree, "annotations": [{**one, "image_id": 99} for one in tree["annotations"]]}))
    with pytest.raises(
        DataRefused, match=r"belong to no image, a share of .*instances_test.json, annotation 1 has image_id"
    ):
        prepare_dataset(str(tmp_path / "coco"), str(tmp_path / "out"), max_bad=0.1)
    assert not (tmp_path / "out/dataset.json").exists()


def test_an_interrupted_preparation_resumes_and_one_of_changed_files_begins_again(
    ray_cluster, meals, tmp_path, monkeypatch, caplog
):
    """As `test_prepare_killed.py`, without a process to kill: one task fails as if the storage had gone away."""
    source, dst = tmp_path / "meals", tmp_path / "prepared"
    shutil.copytree(meals, source)
    first = (source / "train.txt").read_text().split()[14]  # of the eighth batch

    def fails_after_seven(batch, **settings):
        if batch.records[0].image_id == first:
            while not {f"{number:06d}" for number in range(7)} <= {p.name for p in dst.glob("v-1-*/.work/audit/*")}:
                time.sleep(0.05)
            raise RetryLater("storage is away")
        return audit_batch(batch, **settings)

    audit_batch = ray_prepare._audit_batch
    with monkeypatch.context() as patch, pytest.raises(RetryLater, match="storage is away"):
        log_tasks(tmp_path / "failed.log", patch)
        patch.setattr(ray_prepare, "_audit_batch", fails_after_seven)
        prepare_dataset(str(source), str(dst), max_bad=0.1)
    assert not (dst / "dataset.json").exists()

    def audits(log: Path, into: Path) -> tuple[Manifest, int]:
        with monkeypatch.context() as patch:
            log_tasks(log, patch)
            manifest = prepare_dataset(str(source), str(into), max_bad=0.1)
        return manifest, len([line for line in log.read_text().splitlines() if line.startswith("audit ")])

    with caplog.at_level(logging.INFO, "foodseg"):
        resumed, begun = audits(tmp_path / "resumed.log", dst)
    there = re.search(r"checking images: resuming, (\d+) of 24 are there", caplog.text)
    assert there is not None and int(there[1]) >= 14 and begun == 12 - int(there[1]) // 2
    assert not list(dst.glob("v-1-*/.work"))
    assert audits(tmp_path / "whole.log", tmp_path / "whole") == (resumed, 12)

    image = source / "images" / "synthetic__0001.jpg"
    os.utime(image, ns=(0, image.stat().st_mtime_ns + 1))
    assert audits(tmp_path / "changed.log", tmp_path / "changed")[0].folder != resumed.folder


def test_a_record_whose_audit_breaks_is_refused_and_no_other(ray_cluster, meals, tmp_path, monkeypatch):
    def broken(record, **settings):
        if record.image_id == "synthetic__0005":
            raise ZeroDivisionError("nobody thought of this")
        return audit_record(record, **settings)

    uri = str(tmp_path / "prepared")
    own = ray_prepare._audit_batch
    monkeypatch.setattr(ray_prepare, "audit_record", broken)
    # workers get this one by value, with what the module holds here
    monkeypatch.setattr(ray_prepare, "_audit_batch", lambda batch, **settings: own(batch, **settings))
    manifest = prepare_dataset(str(meals), uri, max_bad=0.1)
    reasons = {row["image_id"]: row["reason"] for row in read_quarantine(uri, manifest.folder)}
    assert set(reasons) == {"synthetic__0002", "synthetic__0005"}
    assert reasons["synthetic__0005"] == ("record: it cannot be read (ZeroDivisionError: nobody thought of this)")
    assert sum(counts.images for counts in manifest.counts.values()) == 22
