"""Regions of a data set are scored: the counts of a direct loop, what is written, test accesses, what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import foodseg
from foodseg.classes import ClassTable
from foodseg.data.image_io import decode_image, decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.regions import true_regions
from foodseg.data.sam_masks import mask_row
from foodseg.data.shards import read_manifest, write_manifest
from foodseg.errors import UserError
from foodseg.eval.perturb import perturbed
from foodseg.eval.regions import (
    RESULT_FILES,
    SCHEMA,
    evaluate_regions,
    names_regions,
    parse_regions,
    read_pairs,
)
from foodseg.eval.scoring import LabelledRow, labelled_rows
from foodseg.metrics.regions import region_scores
from foodseg.predict.region_classifier import load_region_classifier
from tests.support.synthetic_set import write_synthetic
from tests.support.tiny_checkpoints import write_checkpoint, write_region_classifier
from tests.unit.data.test_sam_masks import keep

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_region_classifier(folder / "roi")
    write_checkpoint(folder / "segmenter", 1)
    return folder


def rows_of(data: str, split: str = "val") -> list[LabelledRow]:
    reader = RowReader(data, read_manifest(data), [split])
    return list(labelled_rows(reader, range(len(reader))))


def direct(model: str, data: str, how: str | None = None) -> list[dict[str, object]]:
    """What is said of each region of val: one after the other."""
    loaded, classes = load_region_classifier(model, device="cpu"), read_manifest(data).class_table
    found = []
    for row in rows_of(data):
        image = decode_image(row.image)
        for index, region in enumerate(true_regions(decode_mask(row.mask), classes, least_share=0.001)):
            if how is None:
                logits = loaded.scorer.logits(image, [region])[0]
            else:
                views = loaded.scorer.views(image, [region])[0]  # type: ignore[attr-defined]
                logits = loaded.scorer.logits_of_views([perturbed(views, how, index)])[0]  # type: ignore
            food = np.exp(logits[1:] - logits[1:].max())  # a true region is never background
            order = np.sort(food / food.sum())
            found.append({
                "image_id": row.image_id, "group_id": row.group_id, "source": row.source, "region": index,
                "pixels": int(region.mask.sum()), "label": region.label, "predicted": 1 + int(logits[1:].argmax()),
                "score": pytest.approx(order[-1], rel=1e-3), "margin": pytest.approx(order[-1] - order[-2], abs=1e-4),
            })  # fmt: skip
    return found


@pytest.mark.parametrize("perturb", [None, "permute", "translocate"])
def test_each_region_is_counted_once(folder: Path, data: str, perturb: str | None) -> None:
    found = foodseg.evaluate_regions(folder / "roi", data, perturb=perturb)  # type: ignore[arg-type]
    expected = direct(str(folder / "roi"), data, perturb)
    assert found.rows.schema == SCHEMA and found.rows.to_pylist() == expected and len(expected) > 5
    matrix = np.zeros((len(found.classes),) * 2, np.int64)
    for each in expected:
        matrix[each["label"], each["predicted"]] += 1  # type: ignore[index]
    assert found.scores == region_scores(matrix, found.classes, least=5)
    assert (found.images, found.regions, found.perturb) == (3, "truth", perturb)  # the fourth has no mask
    assert found.subject["named_by"] == "roi_context"


def test_a_segmenter_is_scored_by_its_mean_scores(folder: Path, data: str) -> None:
    found = evaluate_regions(load_region_classifier(folder / "segmenter", device="cpu"), data)
    assert found.rows.to_pylist() == direct(str(folder / "segmenter"), data)
    assert found.subject["named_by"] == "mean scores of a segmenter"
    with pytest.raises(UserError, match="--perturb changes the views of a region classifier, and this model is a segm"):
        evaluate_regions(folder / "segmenter", data, perturb="permute")


def test_what_is_written(folder: Path, data: str, tmp_path: Path) -> None:
    found = evaluate_regions(folder / "roi", data, out=tmp_path / "out", perturb="permute")
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir() if path.name[0] != "."} == set(RESULT_FILES)
    assert pq.read_table(out / "regions.parquet").equals(found.rows)
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(found.to_json()))
    assert (metrics["count"], metrics["split"], metrics["perturb"]) == (found.rows.num_rows, "val", "permute")
    assert metrics["top1"] == pytest.approx(
        np.mean([each["label"] == each["predicted"] for each in found.rows.to_pylist()])
    )
    for name in ("report.md", "report.html"):
        text = (out / name).read_text()
        assert f"{100 * metrics['top1']:.1f}" in text and "permute" in text and f"{found.rows.num_rows} regions" in text
    (out / "report.md").write_text("mine")
    with pytest.raises(UserError, match=r"report\.md"):
        evaluate_regions(folder / "roi", data, out=str(out))


def test_pairs(folder: Path, data: str, tmp_path: Path) -> None:
    manifest = read_manifest(data)
    labels = [each["label"] for each in direct(str(folder / "roi"), data)]
    first, second = labels[0], next(label for label in labels if label != labels[0])
    names = manifest.classes[first], manifest.classes[second]  # type: ignore[index]
    path = tmp_path / "pairs.tsv"
    path.write_text(f"{names[0]}\t{names[1]}\n\n")
    (pair,) = evaluate_regions(folder / "roi", data, pairs=str(path)).scores.pairs
    assert pair.names == names and pair.regions == labels.count(first) + labels.count(second)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rice\tbread", "unknown class 'bread'"),
        ("rice", "1 columns"),
        ("rice\tegg\trice", "3 columns"),
        ("rice, egg", "unknown class 'rice, egg'"),
    ],
)
def test_a_bad_line_of_pairs_is_named(line: str, said: str, tmp_path: Path) -> None:
    path, classes = tmp_path / "pairs.tsv", ClassTable(("background", "rice", "egg"))
    path.write_text(f"egg\trice\n{line}\n")
    with pytest.raises(UserError, match=f"^{path}, line 2: {said}; a line is NAME<TAB>NAME, two classes of the label"):
        read_pairs(str(path), classes)
    path.write_text("egg\trice\n")
    assert read_pairs(str(path), classes) == [(2, 1)]


def test_an_access_to_test_is_noted_before_and_after(folder: Path, data: str, tmp_path: Path) -> None:
    found = evaluate_regions(folder / "roi", data, "test", out=tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "test_access.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["opened", "scored"]
    assert {(line["config_hash"], line["what"], line["data"]) for line in lines} == {
        (found.subject["config_hash"], str(folder / "roi"), found.data)
    }
    assert (lines[1]["regions"], lines[1]["macro_f1"]) == (found.rows.num_rows, found.scores.macro_f1)
    log = tmp_path / "log.jsonl"
    evaluate_regions(folder / "roi", data, "val", test_log=str(log))
    assert not log.exists()
    evaluate_regions(folder / "roi", data, "test", test_log=str(log))
    assert len(log.read_text().splitlines()) == 2


def test_some_images(folder: Path, data: str, tmp_path: Path) -> None:
    wanted = rows_of(data)[1].image_id
    (tmp_path / "images.txt").write_text(f"{wanted}\n")
    found = evaluate_regions(folder / "roi", data, images=str(tmp_path / "images.txt"))
    expected = [each for each in direct(str(folder / "roi"), data) if each["image_id"] == wanted]
    assert found.rows.to_pylist() == expected and found.images == 1


def test_masks_of_segment_anything(folder: Path, tmp_path: Path) -> None:
    """Of each image one mask: its largest true region, at half the size."""
    data = write_synthetic(tmp_path / "data")
    manifest, kept, expected = read_manifest(data), [], []
    for row in rows_of(data):
        region = max(
            true_regions(decode_mask(row.mask), manifest.class_table, least_share=0), key=lambda each: each.mask.sum()
        )
        mask = np.ascontiguousarray(region.mask[::2, ::2])
        kept.append(mask_row(row.image_id, mask.shape, [mask], [0.9]))  # type: ignore[arg-type]
        expected.append((row.image_id, region.label))
    with pytest.raises(UserError, match="has no masks of Segment Anything beside it"):
        evaluate_regions(folder / "roi", data, regions="sam")
    keep(data, manifest, kept)
    found = evaluate_regions(folder / "roi", data, regions="sam")
    assert [(each["image_id"], each["label"]) for each in found.rows.to_pylist()] == expected
    assert found.regions == "sam"


def test_what_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    model = load_region_classifier(folder / "roi", device="cpu")
    data = write_synthetic(tmp_path / "data")
    with pytest.raises(UserError, match="overrides are for a checkpoint that is loaded here"):
        evaluate_regions(model, data, overrides=["eval.flip=true"])
    manifest = read_manifest(data)
    write_manifest(data, manifest.model_copy(update={"classes": (*manifest.classes[:-1], "kimchi")}))
    with pytest.raises(UserError, match="names regions in another label space than 'synthetic' has: convert the data"):
        evaluate_regions(model, data, "test", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    assert parse_regions("sam") == "sam" and parse_regions(None) is None
    with pytest.raises(UserError, match="--regions 'boxes': use truth or sam"):
        parse_regions("boxes")


def test_a_split_without_regions_is_said(folder: Path, tmp_path: Path) -> None:
    data = write_synthetic(tmp_path / "data", masks=False)
    with pytest.raises(UserError, match=r"the split 'val' has no region of at least 0\.001 of its image"):
        evaluate_regions(folder / "roi", data)


def test_which_checkpoint_names_regions(folder: Path, tmp_path: Path) -> None:
    assert names_regions(str(folder / "roi")) and not names_regions(str(folder / "segmenter"))
    with pytest.raises(UserError, match="none"):
        names_regions(str(tmp_path / "none"))
