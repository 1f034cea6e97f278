"""`foodseg predict`: label maps, overlays and shares of a few images."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from foodseg.cli.options import AsJson, Device, Overrides, emit
from foodseg.errors import DataRefused, UserError


def predict(
    checkpoint: Annotated[
        str, typer.Argument(help="A run, a checkpoint directory, a URI of either, or hf://owner/name.")
    ],
    images: Annotated[list[str], typer.Argument(help="Image files, folders of them, or URIs.")],
    out: Annotated[
        str, typer.Option(help="Folder or URI for overlays, label maps and JSON; files of others are never replaced.")
    ],
    ingredients: Annotated[
        str | None,
        typer.Option(help="What is on the images, names with commas between: sets eval.ingredients=provided."),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="overlay (JPEG with legend), png (label map of ids), json (areas, shares), coco (RLE; one "
            "predictions.coco.json of all images); repeatable. Left out: overlay, png, json.",
        ),
    ] = None,
    device: Device = "auto",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Label images: overlay with legend, label map, area, share and confidence of each ingredient.

    Images that cannot be read are listed, and the exit code is 3; the others are labelled.

    Example: foodseg predict runs/a lunch.jpg dinner.jpg --out labelled

    Example: foodseg predict runs/a lunch.jpg --ingredients "rice, fried tofu" --out labelled

    Example: foodseg predict runs/a meals/ --format coco --format png --out labelled
    """
    from foodseg import storage
    from foodseg.predict.device import parse_device
    from foodseg.predict.image_list import READ
    from foodseg.predict.label import COCO_FILE, label_images, parse_formats

    if checkpoint.lower().endswith(READ) and Path(checkpoint).is_file():
        right = shlex.join(["foodseg", "predict", images[-1], checkpoint, *images[:-1], "--out", out])
        raise UserError(f"{checkpoint} is an image, and the checkpoint comes first: {right}")
    wanted = parse_formats(formats or [])
    done = label_images(
        checkpoint, images, out, overrides or [], ingredients, device=parse_device(device), formats=wanted
    )
    if not done.images and len(done.refused) == 1:
        raise DataRefused(str(done.refused[0]))

    def show() -> None:
        for image in done.images:
            shares = ", ".join(f"{each.name} {100 * each.share_of_food:.0f} %" for each in image.ingredients[:6])
            print(f"{image.overlay or image.image}: {shares or 'no ingredient found'}")
        if "coco" in wanted:
            print(f"written to {storage.redact(storage.join(out, COCO_FILE))}")
        if not all(image.calibrated for image in done.images):
            why = "the checkpoint was not validated, or with other settings of eval"
            print(f"foodseg: confidences are not calibrated: {why}", file=sys.stderr)

    emit(asdict(done), as_json, show)
    if done.refused:
        count = f"{len(done.refused)} of {len(done.images) + len(done.refused)} images cannot be read"
        others = ", the others are labelled" if done.images else ""
        print(f"foodseg: {count}{others}:", file=sys.stderr)
        for each in done.refused:
            print(f"  {each}", file=sys.stderr)
        raise typer.Exit(DataRefused.exit_code)
