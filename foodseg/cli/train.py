"""`foodseg train`: a segmenter from a prepared data set."""

import shlex
import sys
from typing import Annotated

import typer

from foodseg.cli.options import Address, AsJson, ConfigFile, Overrides, Stopped, emit, require_lasting


def train(
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in run.uri; without --config as it was started.")
    ] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Train a segmenter, on this machine or on a cluster.

    Without --config: the best cheap settings for a few hundred images (foodseg config show).

    Example: foodseg train -c jobs/configs/foodmix.yaml --set scaling.num_workers=2 --set run.uri=runs/a

    Example: foodseg train --set data.uri=prepared/meals --set run.uri=runs/a
    """
    from foodseg.config.marks import written_uris
    from foodseg.config.recipe import load_recipe, load_started
    from foodseg.storage import join
    from foodseg.train.ray_trainer import run_training

    given = overrides or []
    resolved = (load_started(given) if resume and config is None else load_recipe(config, given)).config
    for key, uri in written_uris(resolved).items():
        require_lasting(key, uri, address)
    result = run_training(resolved, resume=resume, address=address)

    def show() -> None:
        if result.stopped:
            return  # stderr says so
        miou = f", mIoU on val {100 * result.miou:.2f}" if result.miou is not None else ""
        print(f"trained {result.step} steps{miou}: {result.run}")
        out = join(result.run, "test")
        command = shlex.join(["foodseg", "evaluate", result.run])
        print(f"next: {command} --data ... --split test --out {shlex.quote(out)}")

    emit(result.to_json(), as_json, show)
    if result.stopped:
        print(f"foodseg: stopped after {result.step} steps; run it again with --resume", file=sys.stderr)
        raise Stopped
