"""`foodseg tune` and `foodseg ablate`: sweeps and ablations."""

import shlex
import sys
from typing import Annotated

import typer

from foodseg.cli.options import Address, AsJson, emit, require_lasting

File = Annotated[str, typer.Option("--config", "-c", help="YAML file; jobs/configs has an example.")]
PartOverrides = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="part.key=value, such as config.train.steps=500.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume the sweep or ablation in its folder.")]


def tune(
    config: File,
    overrides: PartOverrides = None,
    resume: Resume = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Search the settings of a training: many trials, weak ones stopped early, the best as best.yaml.

    Example: foodseg tune -c jobs/configs/sweep.yaml --set config.data.uri=prepared/meals --set sweep.trials=8

    Example: foodseg tune -c jobs/configs/sweep.yaml --resume
    """
    from foodseg.config.marks import written_uris
    from foodseg.tune.ray_sweep import run_sweep
    from foodseg.tune.sweep_files import read_sweep

    plan = read_sweep(config, overrides or [])
    for key, uri in written_uris(plan.sweep, "sweep.").items():
        require_lasting(key, uri, address)
    result = run_sweep(plan, resume=resume, address=address)

    def show() -> None:
        best, count = result.best, result.count
        assert best is not None and best.score is not None  # else `run_sweep` raises
        print(f"{count('finished')} of {len(result.trials)} trials finished, {count('stopped')} were stopped early, "
              f"{count('failed')} failed; {result.worker_hours:.2f} worker-hours")  # fmt: skip
        print(f"best: {best.name}, mIoU on val {100 * best.score:.2f}")
        for name, value in best.values.items():
            print(f"  {name} = {value}")
        print(f"report: {result.file('report.html')}")
        print(f"next: {shlex.join(['foodseg', 'train', '--config', result.file('best.yaml')])}")

    emit(result.to_json(), as_json, show)
    unfinished = result.count("interrupted")
    if unfinished:
        print(f"foodseg: {unfinished} trials are not finished; run it again with --resume", file=sys.stderr)


def ablate(
    config: File,
    overrides: PartOverrides = None,
    subset: Annotated[
        list[str] | None, typer.Option(help="File of class ids that is scored under its own name; repeatable.")
    ] = None,
    resume: Resume = False,
    address: Address = None,
    test_log: Annotated[
        str | None,
        typer.Option(
            help="Test-set access log, a line for each access to `test`; left out: test_access.jsonl next to the "
            "scores of each run."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare named variants of a training over seeds or folds: means, deviations, 95 % intervals of differences.

    Example: foodseg ablate -c jobs/configs/ablate.yaml --set config.data.uri=prepared/meals --subset soy_classes.txt
    """
    from foodseg.config.marks import written_uris
    from foodseg.storage import absolute
    from foodseg.tune.ablation import page_markdown
    from foodseg.tune.ray_ablate import run_ablation
    from foodseg.tune.sweep_files import read_ablation

    plan = read_ablation(config, overrides or [], subset or [])
    for key, uri in written_uris(plan.ablation, "ablation.").items():
        require_lasting(key, uri, address)
    if test_log is not None:
        require_lasting("--test-log", test_log, address)
        test_log = absolute(test_log)  # trials run in another folder
    result = run_ablation(plan, resume=resume, address=address, test_log=test_log)

    def show() -> None:
        print(page_markdown(result))
        print(f"written to {result.ablation}: table.json, table.md")

    emit(result.to_json(), as_json, show)
