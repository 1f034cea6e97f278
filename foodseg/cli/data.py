"""`foodseg data`: prepare, map, export and look at data sets."""

import shlex
import time
from dataclasses import asdict
from typing import Annotated

import typer

from foodseg.cli.options import Address, AsJson, Device, emit, require_lasting

data_app = typer.Typer(help="Prepare, map, export and look at data sets.", no_args_is_help=True)


@data_app.command("prepare")
def data_prepare(
    src: Annotated[str, typer.Argument(help="Folder of the data set: local, s3:// or hf://datasets/OWNER/NAME.")],
    dst: Annotated[str, typer.Argument(help="Where the prepared data set goes; local or s3://.")],
    format: Annotated[
        str, typer.Option(help="auto, folder, foodseg103, uecfoodpix, coco or huggingface: how SRC is laid out.")
    ] = "auto",
    name: Annotated[str | None, typer.Option(help="Name of the data set; left out: the last part of SRC.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Write the next generation of an existing data set.")] = False,
    max_bad: Annotated[float, typer.Option(help="Largest share of refused records, 0 to 1.", min=0, max=1)] = 0.01,
    longest_side: Annotated[
        int | None,
        typer.Option(
            help="Make images that are larger smaller, once, as JPEG of quality 95; left out: all stay as they are.",
            min=64,
        ),
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Check images and masks, carve out `val`, write shards.

    Example: foodseg data prepare my/meals s3://bucket/meals
    """
    from foodseg import storage
    from foodseg.prepare.findings import FINDINGS
    from foodseg.prepare.formats.detect import parse_format
    from foodseg.prepare.ray_prepare import prepare_dataset

    require_lasting("DST", dst, address)
    started = time.monotonic()
    manifest = prepare_dataset(
        src, dst, format=parse_format(format), name=name, overwrite=overwrite, max_bad=max_bad,
        longest_side=longest_side, address=address,
    )  # fmt: skip
    where = storage.redact(dst)
    result = {
        "data": manifest.identity,
        "uri": where,
        "classes": len(manifest.classes),
        "splits": {
            split: counts.model_dump(include={"images", "unlabelled", "groups", "ignored_pixels"})
            for split, counts in manifest.counts.items()
        },
        "shards": len(manifest.shards),
        "quarantined": manifest.quarantined,
        "audit": manifest.audit,
        "seconds": round(time.monotonic() - started, 1),
    }

    def show() -> None:
        print(f"{manifest.identity} at {where}: {len(manifest.classes)} ids")
        for split, counts in manifest.counts.items():
            unlabelled = f", {counts.unlabelled} of them without mask" if counts.unlabelled else ""
            ignored = f", {counts.ignored_share:.1%} of the pixels ignored" if counts.ignored_pixels else ""
            groups = f"in {counts.groups} near-duplicate groups"
            print(f"  {split:5} {counts.images} images{unlabelled} {groups}{ignored}")
        if manifest.quarantined:
            reasons = storage.redact(storage.join(dst, manifest.folder, "quarantine.parquet"))
            print(f"  {manifest.quarantined} records refused; reasons in {reasons}")
        for name, count in manifest.audit.items():
            kind = FINDINGS[name]
            print(f"  {count} {name} ({kind.effect}): {kind.text}")
        print(f"look: {shlex.join(['foodseg', 'data', 'inspect', where])}")
        command = shlex.join(["foodseg", "train", "--set", f"data.uri={where}", "--set", "run.uri=runs/first"])
        print(f"next: {command}")

    emit(result, as_json, show)


@data_app.command("map")
def data_map(
    src: Annotated[str, typer.Argument(help="Prepared data set; local or s3://.")],
    space_map: Annotated[
        str,
        typer.Argument(
            metavar="MAP",
            help="TSV file that maps label space FROM to TO: columns FROM_id, FROM_name, TO_id, TO_name, "
            "and optionally source.",
        ),
    ],
    dst: Annotated[str, typer.Argument(help="Where the mapped data set goes; local or s3://.")],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class table (a file of id<TAB>name) of the target label space; needed where MAP leaves ids out."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set; left out: SRC's name and that of the target label space.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Write the next generation of an existing data set.")] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Bring a prepared data set into another label space: merge ids, split them by source, or ignore them.

    Example: foodseg data map prepared/meals to_foodseg103.tsv prepared/meals103
    """
    from foodseg import storage
    from foodseg.prepare.ray_map import map_data_set

    require_lasting("DST", dst, address)
    started = time.monotonic()
    manifest = map_data_set(src, space_map, dst, classes=classes, name=name, overwrite=overwrite, address=address)
    where = storage.redact(dst)
    result = {
        "data": manifest.identity,
        "uri": where,
        "classes": len(manifest.classes),
        "annotated": manifest.annotated,
        "splits": {split: counts.images for split, counts in manifest.counts.items()},
        "seconds": round(time.monotonic() - started, 1),
    }

    def show() -> None:
        print(f"{manifest.identity} at {where}: {len(manifest.classes)} ids")
        for source, ids in manifest.annotated.items():
            print(f"  source {source!r} annotates {'all' if ids is None else len(ids)} of them")

    emit(result, as_json, show)


@data_app.command("export")
def data_export(
    src: Annotated[str, typer.Argument(help="Prepared data set, or one in a format that `data prepare` reads.")],
    dst: Annotated[str, typer.Argument(help="Where the COCO data set goes, a new folder; local or s3://.")],
    format: Annotated[
        str, typer.Option(help="auto, folder, foodseg103, uecfoodpix, coco or huggingface: how a source is laid out.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Write a data set as COCO: images/ and annotations/instances_SPLIT.json, an RLE per image and ingredient.

    Example: foodseg data export my/meals meals-coco

    Example: foodseg data export s3://bucket/meals meals-coco
    """
    from foodseg import storage
    from foodseg.prepare.export import export_data_set
    from foodseg.prepare.formats.detect import parse_format

    exported = export_data_set(src, dst, parse_format(format))

    def show() -> None:
        splits = ", ".join(f"{split} {images} images" for split, images in exported.splits.items())
        print(f"{storage.redact(dst)}: {splits}; {exported.categories} categories")

    emit({"uri": storage.redact(dst), **asdict(exported)}, as_json, show)


@data_app.command("embed")
def data_embed(
    src: Annotated[str, typer.Argument(help="Prepared data set, or a class table of lines id<TAB>name.")],
    out: Annotated[str, typer.Argument(help="The .safetensors file or URI to write.")],
    random: Annotated[
        bool, typer.Option("--random", help="Random embeddings instead of those of the sentence encoder.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of --random.", min=0)] = 0,
    permute: Annotated[
        int | None, typer.Option(help="Give each name the embedding of another one; the number is the seed.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a table of one text embedding per class, for model.text.table; needs pip install 'foodseg\\[minilm]'.

    Example: foodseg data embed prepared/meals meals.safetensors

    Example: foodseg data embed prepared/meals permuted.safetensors --permute 1
    """
    from foodseg.models.text.embed import embed_names

    result = embed_names(src, out, random_seed=seed if random else None, permute=permute)

    def show() -> None:
        print(f"{result.table}: {result.ids} ids, embeddings of {result.width}, {result.made_by}")
        print("closest names:")
        for pair in result.closest:
            print(f"  {pair.cosine:.2f}  {' / '.join(pair.names)}")
        table = shlex.quote(f"model.text.table={result.table}")
        print(f"next: foodseg train --set model.text.kind=table --set {table} ...")

    emit(result.to_json(), as_json, show)


@data_app.command("masks")
def data_masks(
    uri: Annotated[str, typer.Argument(help="Prepared data set; local or s3://.")],
    sam: Annotated[str, typer.Option(help="Weights of segment-anything or MobileSAM: a file or s3://.")],
    points: Annotated[int, typer.Option(help="Points along each side of the grid of clicks.", min=1, max=64)] = 16,
    overwrite: Annotated[bool, typer.Option(help="Replace masks of other weights or of another grid.")] = False,
    address: Address = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Find the masks of Segment Anything in all images, and keep them beside the data set.

    `foodseg evaluate --refine vote` then reads them instead of computing them each time. Interrupted, the same command
    resumes.

    Example: foodseg data masks prepared/meals --sam mobile_sam.safetensors
    """
    from foodseg.models.sam.mask_grid import MaskGrid
    from foodseg.predict.device import parse_device
    from foodseg.prepare.ray_masks import make_masks

    grid, chosen = MaskGrid(points_per_side=points), parse_device(device)
    made = make_masks(uri, sam, grid, overwrite=overwrite, address=address, device=chosen)
    emit(asdict(made), as_json, lambda: print(f"{made.folder}: {made.masks:,} masks of {made.images:,} images"))


@data_app.command("inspect")
def data_inspect(
    uri: Annotated[str, typer.Argument(help="Prepared data set; local or s3://.")],
    out: Annotated[str | None, typer.Option(help="Where the images go; left out: ./inspect-NAME.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Table of `data embed`: also list the names with the closest embeddings.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="First read every shard and compare it with its sha256 in dataset.json.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what is in a prepared data set and what its audit found; draw a contact sheet and the near-duplicates.

    Example: foodseg data inspect s3://bucket/meals --out look

    Example: foodseg data inspect s3://bucket/meals --verify
    """
    from foodseg.prepare.inspect import inspect_data, show_inspection

    result = inspect_data(uri, out, text, verify=verify)
    emit(result.to_json(), as_json, lambda: show_inspection(result))
