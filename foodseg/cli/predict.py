"""`foodseg predict`: label maps, overlays and shares of a few images."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from foodseg.cli.labelled import (
    Formats,
    Images,
    Out,
    Recheck,
    RecheckBelow,
    Refine,
    Sam,
    show_labelled,
    show_named,
)
from foodseg.cli.options import AsJson, Device, Overrides, RuntimeName
from foodseg.errors import UserError


def predict(
    checkpoint: Annotated[
        str, typer.Argument(help="A run, a checkpoint directory, a URI of either, or hf://owner/name.")
    ],
    images: Images,
    out: Out,
    ingredients: Annotated[
        str | None,
        typer.Option(help="What is on the images, names with commas between: sets eval.ingredients=provided."),
    ] = None,
    names: Annotated[
        str | None,
        typer.Option(
            help="Other names to look for, with commas between, for a model of the kind open_vocabulary; as of "
            "foodseg zero-shot."
        ),
    ] = None,
    masks: Annotated[
        str | None,
        typer.Option(
            help="Name these regions instead of finding them: a PNG (one value a region, 0 elsewhere) or JSON (COCO, "
            "or a list of RLE or polygons) for one image, a folder of IMAGE.png or IMAGE.json for several. CHECKPOINT "
            "is a region classifier (model.kind roi) or a segmenter."
        ),
    ] = None,
    formats: Formats = None,
    refine: Refine = "none",
    sam: Sam = None,
    recheck: Recheck = None,
    recheck_below: RecheckBelow = None,
    runtime: RuntimeName = None,
    device: Device = "auto",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Label images: overlay with legend, label map, area, share and confidence of each ingredient.

    Images that cannot be read are listed, and the exit code is 3; the others are labelled.

    Example: foodseg predict runs/a lunch.jpg dinner.jpg --out labelled

    Example: foodseg predict runs/a lunch.jpg --ingredients "rice, fried tofu" --out labelled

    Example: foodseg predict runs/a meals/ --format coco --format png --out labelled

    Example: foodseg predict runs/open lunch.jpg --names "kimchi, rice" --out labelled

    Example: foodseg predict runs/a lunch.jpg --recheck runs/roi --out labelled

    Example: foodseg predict runs/roi lunch.jpg --masks lunch.masks.json --out labelled

    Example: foodseg predict runs/a lunch.jpg --refine vote --sam mobile_sam.safetensors --out labelled
    """
    from foodseg.models.exported import parse_runtime
    from foodseg.predict.device import parse_device
    from foodseg.predict.image_list import READ
    from foodseg.predict.label import label_images, parse_formats
    from foodseg.predict.name_regions import name_regions
    from foodseg.predict.refine import parse_refine

    if checkpoint.lower().endswith(READ) and Path(checkpoint).is_file():
        right = shlex.join(["foodseg", "predict", images[-1], checkpoint, *images[:-1], "--out", out])
        raise UserError(f"{checkpoint} is an image, and the checkpoint comes first: {right}")
    if masks is not None:
        if ingredients is not None or names is not None or refine != "none" or sam or formats:
            raise UserError(
                "--masks names regions that are given: leave out --ingredients, --names, --refine, --sam and --format"
            )
        if recheck is not None or recheck_below is not None:
            raise UserError("--recheck is for label maps, and --masks names regions that are given: leave it out")
        if runtime is not None:
            raise UserError("--runtime is for label maps, and --masks names regions that are given: leave it out")
        named = name_regions(checkpoint, images, masks, out, overrides or [], device=parse_device(device))
        show_named(named, out, as_json)
        return
    wanted = parse_formats(formats or [])
    done = label_images(
        checkpoint, images, out, overrides or [], ingredients, names=names, device=parse_device(device),
        formats=wanted, refine=parse_refine(refine), sam=sam, recheck=recheck, recheck_below=recheck_below,
        runtime=parse_runtime(runtime, where="--runtime"),
    )  # fmt: skip
    show_labelled(done, wanted, out, as_json, trained=names is None)
