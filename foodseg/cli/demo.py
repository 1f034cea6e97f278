"""`foodseg demo`: all steps from images to labelled images, small and offline."""

from pathlib import Path
from typing import Annotated

import typer

from foodseg.cli.options import AsJson, emit


def demo(
    data: Annotated[
        str | None,
        typer.Option(help="Folder of your own images and masks, as SRC of `data prepare`; left out: synthetic meals."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for all results; emptied first if an earlier demo wrote it.")
    ] = Path("demo-out"),
    as_json: AsJson = False,
) -> None:
    """Run all steps on a small data set: prepare, train with 2 workers, evaluate, predict. Offline.

    Example: foodseg demo --data my/meals
    """
    from foodseg.demo.ray_demo import run_demo

    result = run_demo(data, out)
    emit(result.to_json(), as_json, lambda: print(result.summary))
