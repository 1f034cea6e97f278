"""`foodseg demo`: the whole main job, small and offline."""

from pathlib import Path
from typing import Annotated

import typer

from foodseg.cli.options import AsJson, emit


def demo(
    data: Annotated[
        str | None, typer.Option(help="Your own images and masks, as for `data prepare`; left out: synthetic meals.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where everything goes; emptied first if it is an earlier demo.")] = Path(
        "demo-out"
    ),
    as_json: AsJson = False,
) -> None:
    """The whole main job, small: prepare, train with 2 workers, evaluate, predict. Offline.

    Example: foodseg demo --data my/meals
    """
    from foodseg.demo.ray_demo import run_demo

    result = run_demo(data, out)
    emit(result, as_json, lambda: print(result["summary"]))
