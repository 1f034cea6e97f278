"""A report with everything that is awkward: names with markup and without spaces, many classes, long curves."""

from pathlib import Path

import numpy as np

from foodseg.checkpoint.history import Validation
from foodseg.classes import ClassTable
from foodseg.data.image_io import decode_mask
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.eval.examples import draw_examples
from foodseg.eval.mapped import CommonSpace
from foodseg.eval.report_html import Page
from foodseg.eval.scores import summarise_evaluation
from foodseg.eval.scoring import Labels, score_rows
from foodseg.metrics.per_image import merge
from tests.support.synthetic_set import write_synthetic

NAMES = (
    "background",
    "<script>alert(1)</script>",
    "<b>rice</b> & \"peas\" 'n' more",
    "averyveryveryverylongnamewithoutanyspaceinitatallthatwouldnotfitonanytelephone",
    *(f"ingredient number {index}" for index in range(4, 13)),
)


def awkward_page(folder: Path, confidence: bool = True) -> Page:
    """Returns the page of synthetic meals whose left half is labelled rightly; `confidence`: all curves are there."""
    uri = write_synthetic(folder, train=2, val=14, test=1)
    manifest = read_manifest(uri).model_copy(
        update={"classes": NAMES, "audit": {"exif_orientation": 3, "<i>odd</i>": 1}, "quarantined": 2}
    )
    space = CommonSpace(ClassTable(NAMES), "synthetic")
    reader = RowReader(uri, manifest, ["val"])
    masks = {row["image_id"]: row["mask"] for row in reader.take(range(13)).to_pylist()}

    def labeller(image_id: str, image: bytes, size: tuple[int, int]) -> Labels:
        ids = decode_mask(masks[image_id])
        left = np.arange(size[1]) < size[1] // 2
        sure = np.where(left, 60_000, 20_000) * np.ones(size, int)
        return Labels(np.where(left & (ids < 255), ids, 1), sure.astype(np.uint16) if confidence else None)

    scored = score_rows(reader, range(14), labeller, space)
    worst, best = draw_examples(reader, scored.images, labeller, space)
    steps = range(10, 3000, 10)
    return Page(
        title="<b>meals</b> val",
        facts={"scored": "s3://bucket/" + 12 * "averylongfoldername/", "data": "<i>"},
        evaluation=summarise_evaluation(
            scored, NAMES, subsets={"<u>soy</u>": [2]}, trained_ids=[0, 1, 2], calibration_note="no <em>note</em>"
        ),
        matrix=merge(scored.images, len(NAMES)),
        classes=space.classes,
        manifest=manifest,
        worst=worst,
        best=best,
        history=[Validation(step, 0.1, 0.1, 0.1, 0.001 * step % 0.5) for step in steps] if confidence else [],
        losses={"cross_entropy": [(step, 10 / step) for step in steps], "dice": [(10, 0.5)]} if confidence else {},
    )
