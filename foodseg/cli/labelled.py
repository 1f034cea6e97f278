"""What `foodseg predict` and `foodseg zero-shot` share: options for images and results, and how results are shown."""

import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from foodseg.cli.options import emit
from foodseg.errors import DataRefused

if TYPE_CHECKING:
    from foodseg.predict.label import LabelResults, RefusedImage
    from foodseg.predict.name_regions import NamedResults

Images = Annotated[list[str], typer.Argument(help="Image files, folders of them, or URIs.")]
Out = Annotated[
    str, typer.Option(help="Folder or URI for overlays, label maps and JSON; files of others are never replaced.")
]
Refine = Annotated[
    str,
    typer.Option(
        help="Redraw label maps along masks of Segment Anything: none, vote (a mask takes the id that most of its "
        "pixels have), or soft (the id with the greatest mean logit)."
    ),
]
Sam = Annotated[
    str | None, typer.Option(help="Weights of segment-anything or MobileSAM, a file or s3://, for --refine.")
]
Recheck = Annotated[
    str | None,
    typer.Option(help="A region classifier (model.kind roi), which names regions of low confidence again."),
]
RecheckBelow = Annotated[
    float | None, typer.Option(help="With --recheck: mean confidence below which a region is doubtful; 0.6.")
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="overlay (JPEG with legend), png (label map of ids), json (areas, shares), coco (RLE; one "
        "predictions.coco.json of all images), instances (with --refine: SAM's masks with their labels, one "
        "instances.coco.json); repeatable. Left out: overlay, png, json.",
    ),
]


def show_labelled(
    done: "LabelResults", formats: Collection[str], out: str, as_json: bool, *, trained: bool = True
) -> None:
    """Prints what became of each image.

    Args:
        trained: a model was trained, so that its confidences could be calibrated.

    Raises:
        DataRefused: the only image cannot be read. typer.Exit: some of several cannot.
    """
    from foodseg import storage
    from foodseg.predict.label import COCO_FILE, INSTANCES_FILE

    if not done.images and len(done.refused) == 1:
        raise DataRefused(str(done.refused[0]))

    def show() -> None:
        for image in done.images:
            shares = ", ".join(f"{each.name} {100 * each.share_of_food:.0f} %" for each in image.ingredients[:6])
            print(f"{image.overlay or image.image}: {shares or 'no ingredient found'}")
        for name, file in (("coco", COCO_FILE), ("instances", INSTANCES_FILE)):
            if name in formats:
                print(f"written to {storage.redact(storage.join(out, file))}")
        if trained and not all(image.calibrated for image in done.images):
            why = "the checkpoint was not validated, or with other settings of eval"
            print(f"foodseg: confidences are not calibrated: {why}", file=sys.stderr)

    emit(asdict(done), as_json, show)
    _list_refused(done.refused, len(done.images))


def show_named(done: "NamedResults", out: str, as_json: bool) -> None:
    """Prints what each region was named. Raises as `show_labelled`."""
    if not done.images and len(done.refused) == 1:
        raise DataRefused(str(done.refused[0]))

    def show() -> None:
        for image in done.images:
            named = ", ".join(f"{each.name} {100 * each.score:.0f} %" for each in image.regions[:6])
            print(f"{image.overlay}: {named}{', ...' * (len(image.regions) > 6)}")

    emit(asdict(done), as_json, show)
    _list_refused(done.refused, len(done.images))


def _list_refused(refused: "Sequence[RefusedImage]", others: int) -> None:
    if not refused:
        return
    count = f"{len(refused)} of {others + len(refused)} images cannot be read"
    print(f"foodseg: {count}{', the others are labelled' if others else ''}:", file=sys.stderr)
    for each in refused:
        print(f"  {each}", file=sys.stderr)
    raise typer.Exit(DataRefused.exit_code)
