"""Scores of named regions: every region of a split once, by a region classifier or by a segmenter's mean scores.

    found = evaluate_regions("runs/roi", "prepared/meals", "test", out="runs/roi/test")
    found.scores.macro_f1

writes `metrics.json`, `report.html`, `report.md` and `regions.parquet` (a row for each region, to compare runs).
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foodseg import storage
from foodseg.checkpoint.find import resolve_checkpoint
from foodseg.checkpoint.hub import local_checkpoint
from foodseg.checkpoint.index_file import EXPORTED, index_file
from foodseg.checkpoint.manifest import read_manifest_file
from foodseg.checkpoint.node_copy import local_files
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.config import parse_config
from foodseg.config.load import config_hash
from foodseg.config.roi import RoiConfig
from foodseg.data.image_io import decode_image
from foodseg.data.regions import Region
from foodseg.data.roi_views import SAM_COLUMN, row_regions
from foodseg.data.sam_masks import read_kept_masks
from foodseg.errors import UserError
from foodseg.eval.evaluate import ACCESS_LOG, note_test_access
from foodseg.eval.perturb import Perturbation, perturbed
from foodseg.eval.scored_rows import ScoredRows, split_rows
from foodseg.eval.scoring import LabelledRow, labelled_rows
from foodseg.metrics.regions import RegionScores, region_scores
from foodseg.predict.region_classifier import RegionClassifier, load_region_classifier
from foodseg.predict.region_label import region_labels
from foodseg.predict.region_predictor import OtherContexts, RegionPredictor
from foodseg.progress import Progress
from foodseg.report.region_report import region_html, region_markdown
from foodseg.storage.outputs import claim_outputs

RESULT_FILES = ("regions.parquet", "report.md", "report.html", "metrics.json")
LEAST = 5  # regions of a class that macro F1 counts

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("group_id", pa.string()),
        ("source", pa.string()),
        ("region", pa.int32()),  # of the image: 0, 1, ...
        ("pixels", pa.int32()),
        ("label", pa.int32()),
        ("predicted", pa.int32()),
        ("score", pa.float32()),
        ("margin", pa.float32()),
    ]
)


@dataclass(frozen=True)
class RegionEvaluation:
    """What `evaluate_regions` returns; `to_json` is the content of `metrics.json`.

    subject: the checkpoint, how it names regions, its step, weights and configuration. regions: truth or sam.
    rows: one for each region, as SCHEMA; ids of `classes`.
    """

    subject: dict[str, Any]
    data: str
    split: str
    images: int
    regions: str
    perturb: str | None
    seconds: float
    scores: RegionScores
    classes: tuple[str, ...]
    rows: pa.Table = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns all but the rows."""
        found = self.scores
        return {
            **self.subject, "data": self.data, "split": self.split, "images": self.images, "regions": self.regions,
            "perturb": self.perturb, "seconds": self.seconds, "count": found.regions, "top1": found.top1,
            "macro_f1": found.macro_f1, "classes_counted": found.counted, "least_regions": found.least,
            "pairs": [asdict(pair) for pair in found.pairs], "classes": [asdict(each) for each in found.classes],
        }  # fmt: skip


class _Named(NamedTuple):
    row: LabelledRow
    regions: list[Region]
    logits: np.ndarray


def evaluate_regions(
    model: str | os.PathLike[str] | RegionClassifier,
    data: str | os.PathLike[str],
    split: str = "val",
    *,
    out: str | os.PathLike[str] | None = None,
    images: str | None = None,
    regions: str | None = None,
    perturb: Perturbation | None = None,
    pairs: str | None = None,
    least: int = LEAST,
    overrides: Sequence[str] = (),
    test_log: str | None = None,
) -> RegionEvaluation:
    """Scores how regions of a prepared data set are named.

    Args:
        model: a run, a checkpoint or a URI of either, of a region classifier or a segmenter; or one that was loaded.
        regions: truth or sam, as `roi.regions`; None = as the model was trained, truth for a segmenter.
        perturb: perturb the views, as `eval/perturb.py` says; for a region classifier.
        pairs: file of pairs of classes that are confused, a line NAME<TAB>NAME each; each is scored.
        least: regions of a class that macro F1 counts.
        out, images, test_log, overrides: as for `evaluate`.

    Raises:
        UserError: label spaces differ, there is no region, a perturbation of a segmenter, unknown names in `pairs`;
            as `evaluate`.

    >>> import foodseg
    >>> scored = foodseg.evaluate_regions("runs/roi", "prepared/meals")
    >>> scored.scores.regions == scored.rows.num_rows > 0
    True
    """
    rows = split_rows(storage.absolute(os.fspath(data)), split, images)
    return evaluate_region_rows(
        model, rows, out=out, regions=regions, perturb=perturb, pairs=pairs, least=least, overrides=overrides,
        test_log=test_log,
    )  # fmt: skip


def evaluate_region_rows(
    model: str | os.PathLike[str] | RegionClassifier,
    scored_rows: ScoredRows,
    *,
    out: str | os.PathLike[str] | None = None,
    regions: str | None = None,
    perturb: Perturbation | None = None,
    pairs: str | None = None,
    least: int = LEAST,
    overrides: Sequence[str] = (),
    test_log: str | None = None,
) -> RegionEvaluation:
    """As `evaluate_regions`, on rows that were chosen otherwise: those of a fold, say."""
    started = time.monotonic()
    out = None if out is None else os.fspath(out)
    if not isinstance(model, RegionClassifier):
        model = load_region_classifier(model, overrides=overrides)
    elif overrides:
        raise UserError("overrides are for a checkpoint that is loaded here, and this model is loaded already")
    manifest, split = scored_rows.manifest, scored_rows.split
    if model.classes != tuple(manifest.classes):
        raise UserError(
            f"{storage.redact(model.uri)} names regions in another label space than {manifest.name!r} has: convert the "
            "data set with `foodseg data map`"
        )
    if perturb is not None and not isinstance(model.scorer, RegionPredictor):
        raise UserError("--perturb changes the views of a region classifier, and this model is a segmenter")
    roi = model.config.roi.model_copy(update={"regions": regions or model.config.roi.regions})
    named_pairs = [] if pairs is None else read_pairs(pairs, manifest.class_table)
    outputs = None if out is None else claim_outputs(out, RESULT_FILES, by="evaluate")
    test_log = test_log or (ACCESS_LOG if out is None else storage.join(out, ACCESS_LOG))
    access = {"config_hash": config_hash(model.config), "what": storage.redact(model.uri), "data": manifest.identity}
    if split == "test":
        note_test_access(test_log, "opened", access)
    records: list[dict[str, Any]] = []
    with Progress("naming regions", len(scored_rows.rows)) as progress:
        for found in _named(model, scored_rows, roi, perturb):
            records += _records(found, model.classes)
            progress.advance(1)
    if not records:
        raise UserError(f"the split {split!r} has no region of at least {roi.least_share:g} of its image")
    table = pa.Table.from_pylist(records, SCHEMA)
    matrix = np.zeros((len(model.classes), len(model.classes)), np.int64)
    np.add.at(matrix, (table.column("label").to_numpy(), table.column("predicted").to_numpy()), 1)
    result = RegionEvaluation(
        subject={
            "checkpoint": storage.redact(model.uri), "step": model.step, "weights": model.config.eval.weights,
            "named_by": roi.views if model.config.regions is not None else "mean scores of a segmenter",
            "config_hash": config_hash(model.config),
        },
        data=manifest.identity,
        split=split,
        images=len(set(table.column("image_id").to_pylist())),
        regions=roi.regions,
        perturb=perturb,
        seconds=round(time.monotonic() - started, 1),
        scores=region_scores(matrix, model.classes, least=least, pairs=named_pairs),
        classes=model.classes,
        rows=table,
    )  # fmt: skip
    if out is not None and outputs is not None:
        with outputs:
            _write(out, result)
    if split == "test":
        noted = {"regions": result.scores.regions, "macro_f1": result.scores.macro_f1, "perturb": perturb}
        note_test_access(test_log, "scored", {**access, **noted})
    return result


def names_regions(checkpoint: str) -> bool:
    """Whether a checkpoint is a region classifier. UserError: there is none, or it is damaged."""
    uri = local_checkpoint(resolve_checkpoint(checkpoint))
    if index_file(uri) == EXPORTED:
        return False  # a region classifier cannot be exported
    with local_files(uri, read_manifest_file(uri)) as file:
        return parse_config(json.loads(file("config.json").read_bytes())).regions is not None


def parse_regions(value: str | None) -> str | None:
    """Returns what `--regions` says. UserError: something else."""
    if value not in (None, "truth", "sam"):
        raise UserError(f"--regions {value!r}: use truth or sam")
    return value


def read_pairs(uri: str, classes: ClassTable) -> list[tuple[int, int]]:
    """Reads pairs of class names, a line NAME<TAB>NAME each; returns their ids. UserError: an unknown name."""
    found = []
    ids = {name: index for index, name in enumerate(classes.names)}
    for number, line in enumerate(storage.read_text(uri).splitlines(), start=1):
        if not line.strip():
            continue
        names = line.split("\t")
        unknown = next((name for name in names if name not in ids), None)
        if len(names) != 2 or unknown is not None:
            what = f"unknown class {unknown!r}" if unknown is not None else f"{len(names)} columns"
            raise UserError(f"{uri}, line {number}: {what}; a line is NAME<TAB>NAME, two classes of the label space")
        found.append((ids[names[0]], ids[names[1]]))
    return found


def _named(
    model: RegionClassifier, scored_rows: ScoredRows, roi: RoiConfig, perturb: Perturbation | None
) -> Iterator[_Named]:
    """Yields every row with its regions and their class scores; a row without regions has none."""
    manifest, reader = scored_rows.manifest, scored_rows.reader
    kept = read_kept_masks(reader.uri, manifest) if roi.regions == "sam" else None
    others, scorer = OtherContexts(), model.scorer
    for part in reader.by_row_group(scored_rows.rows):
        for row in labelled_rows(reader, part):
            given: dict[str, object] = {"mask": row.mask, "source": row.source}
            if kept is not None:
                (given[SAM_COLUMN],) = kept.of_images([row.image_id]).to_pylist()
            regions = row_regions(given, roi, manifest)
            if not regions:
                yield _Named(row, [], np.zeros((0, len(manifest.classes)), np.float32))
                continue
            image = decode_image(row.image)
            if not isinstance(scorer, RegionPredictor):
                yield _Named(row, regions, _of_food(scorer.logits(image, regions), roi))
                continue
            views = scorer.views(image, regions)
            if model.config.roi.views == "roi_other_context":
                views = others.exchange(row.source, views)
            if perturb is not None:
                views = [perturbed(each, perturb, index) for index, each in enumerate(views)]
            yield _Named(row, regions, _of_food(scorer.logits_of_views(views), roi))


def _of_food(logits: np.ndarray, roi: RoiConfig) -> np.ndarray:
    """Regions of the truth are ingredients: background cannot be the answer."""
    if roi.regions == "truth":
        logits = logits.copy()
        logits[:, BACKGROUND] = -np.inf
    return logits


def _records(found: _Named, classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    labels = region_labels(found.logits, found.regions, classes)
    for index, (region, label) in enumerate(zip(found.regions, labels, strict=True)):
        yield {
            "image_id": found.row.image_id, "group_id": found.row.group_id, "source": found.row.source,
            "region": index, "pixels": label.pixels, "label": region.label, "predicted": label.id,
            "score": label.score, "margin": label.margin,
        }  # fmt: skip


def _write(out: str, result: RegionEvaluation) -> None:
    title = f"regions of {result.data.split('@')[0]} {result.split}"
    facts = {
        "scored": str(result.subject["checkpoint"]),
        "model": f"step {result.subject['step']}, {result.subject['weights']} weights, {result.subject['named_by']}",
        "data": f"{result.data}, split {result.split}, {result.images} images, regions by {result.regions}",
        **({} if result.perturb is None else {"perturbed": result.perturb}),
    }
    sink = pa.BufferOutputStream()
    pq.write_table(result.rows, sink, compression="zstd")
    storage.write_bytes(storage.join(out, "regions.parquet"), sink.getvalue().to_pybytes())
    storage.write_text(storage.join(out, "report.md"), region_markdown(title, facts, result.scores))
    storage.write_text(storage.join(out, "report.html"), region_html(title, facts, result.scores))
    storage.write_json(storage.join(out, "metrics.json"), result.to_json())
