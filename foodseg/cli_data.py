"""`foodseg data`: prepare data sets."""

import time
from typing import Annotated

import typer

from foodseg.cli_options import Address, AsJson, emit

data_app = typer.Typer(help="Prepare data sets.", no_args_is_help=True)


@data_app.command("prepare")
def data_prepare(
    src: Annotated[
        str, typer.Argument(help="Folder with images/, masks/, classes.txt, train.txt, test.txt; local or s3://.")
    ],
    dst: Annotated[str, typer.Argument(help="Where the prepared data set goes; local or s3://.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set; left out: the last part of SRC.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Write the next generation of an existing data set.")] = False,
    max_bad: Annotated[float, typer.Option(help="Largest share of refused records, 0 to 1.", min=0, max=1)] = 0.01,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Check pictures and masks, carve out `val`, write shards.

    Example: foodseg data prepare my/meals s3://bucket/meals
    """
    from foodseg.data.ray_prepare import prepare

    started = time.monotonic()
    manifest = prepare(src, dst, name=name, overwrite=overwrite, max_bad=max_bad, address=address)
    result = {
        "data": manifest.identity,
        "uri": dst,
        "classes": len(manifest.classes),
        "splits": {
            split: counts.model_dump(include={"pictures", "unlabelled", "groups"})
            for split, counts in manifest.counts.items()
        },
        "shards": len(manifest.shards),
        "quarantined": manifest.quarantined,
        "seconds": round(time.monotonic() - started, 1),
    }

    def show() -> None:
        print(f"{manifest.identity} at {dst}: {len(manifest.classes)} ids")
        for split, counts in manifest.counts.items():
            unlabelled = f", {counts.unlabelled} of them without mask" if counts.unlabelled else ""
            print(f"  {split:5} {counts.pictures} pictures{unlabelled} in {counts.groups} near-duplicate groups")
        if manifest.quarantined:
            print(
                f"  {manifest.quarantined} records refused; reasons in {dst}/v-{manifest.generation}/quarantine.parquet"
            )
        print(f"next: foodseg train --set data.uri={dst} --set run.uri=runs/first")

    emit(result, as_json, show)
