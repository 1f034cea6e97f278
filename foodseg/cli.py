"""The `foodseg` command: parse, call one function, print. Everything heavy is imported inside the commands."""

import json
import re
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from foodseg.cli_bench import bench_app
from foodseg.cli_config import config_app
from foodseg.cli_data import data_app
from foodseg.cli_options import Address, AsJson, ConfigFile, Device, Overrides, emit, example_of, require_lasting
from foodseg.cli_serve import serve_app
from foodseg.cli_tune import ablate, tune
from foodseg.errors import EXIT_INTERRUPTED, EXIT_OUR_FAULT, DataRefused, FoodsegError, UserError

app = typer.Typer(
    help="Which ingredient is where on a picture of food: prepare, train, evaluate, predict; on a laptop or on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
app.add_typer(bench_app, name="bench")
app.add_typer(serve_app, name="serve")
app.command()(tune)
app.command()(ablate)


class _Stopped(Exception):
    """A training was asked to stop and has said so, with its result."""


def main() -> None:
    """Runs the command line; every expected failure is one sentence on stderr and its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` sets it
            signal.signal(number, _interrupt)
    sys.exit(run(sys.argv[1:]))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """`kill` and a terminal that is closed end a command as Ctrl-C does: what it has started is ended first."""
    raise KeyboardInterrupt


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit code; stdout holds results, stderr everything else."""
    from foodseg.logs import log_to_stderr

    log_to_stderr()
    as_json = "--json" in arguments
    try:
        code = app(arguments, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of KeyboardInterrupt
            return _fail("interrupted; a training run goes on with --resume", EXIT_INTERRUPTED, as_json)
        return code if isinstance(code, int) else 0
    except _Stopped:
        return EXIT_INTERRUPTED
    except FoodsegError as error:
        return _fail(str(error), error.exit_code, as_json)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: a missing argument, an unknown option
            message = error.format_message().strip().rstrip(".")
            if not message:  # a bare `foodseg` or `foodseg data`: its help is the answer, and is printed already
                return UserError.exit_code
            return _fail(f"{message}{example_of(error)} (see --help)", UserError.exit_code, as_json)
        if type(error).__name__ == "Abort":
            return _fail("interrupted", EXIT_INTERRUPTED, as_json)
        import traceback

        traceback.print_exc()
        return _fail(f"internal error, please report it: {type(error).__name__}: {error}", EXIT_OUR_FAULT, as_json)


def _fail(sentence: str, code: int, as_json: bool) -> int:
    from foodseg.storage.s3 import redact

    sentence = redact(re.sub(r"\s*[\r\n]\s*", " ", sentence.strip()))  # what a library said may have line breaks
    if as_json:
        print(json.dumps({"error": {"message": sentence, "exit_code": code}}))
    print(f"foodseg: {sentence}", file=sys.stderr)
    return code


def _version(wanted: bool) -> None:
    if wanted:
        from foodseg.versions import versions

        for name, version in versions().items():
            print(f"{name} {version}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Code, format, Ray and torch versions.")
    ] = False,
) -> None:
    """Which ingredient is where on a picture of food."""


@app.command()
def train(
    config: ConfigFile = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in run.uri.")] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Train a segmenter, on this machine or on a cluster.

    Example: foodseg train -c jobs/configs/foodmix.yaml --set scaling.num_workers=2 --set run.uri=runs/a
    """
    from foodseg.config import load_config
    from foodseg.storage import join
    from foodseg.train.ray_trainer import run_training

    resolved = load_config(config, overrides or []).config
    require_lasting("run.uri", resolved.run.uri, address)
    if resolved.train.latent_cache is not None:
        require_lasting("train.latent_cache", resolved.train.latent_cache, address)
    result = run_training(resolved, resume=resume, address=address)

    def show() -> None:
        if result["stopped"]:
            return  # stderr says so
        miou = f", mIoU on val {100 * result['miou']:.2f}" if result["miou"] is not None else ""
        print(f"trained {result['step']} steps{miou}: {result['run']}")
        out = join(result["run"], "test")
        command = shlex.join(["foodseg", "evaluate", result["run"]])
        print(f"next: {command} --data ... --split test --out {shlex.quote(out)}")

    emit(result, as_json, show)
    if result["stopped"]:
        print(f"foodseg: stopped after {result['step']} steps; go on with --resume", file=sys.stderr)
        raise _Stopped


@app.command()
def evaluate(
    checkpoint: Annotated[str | None, typer.Argument(help="A run, a checkpoint directory or a URI of either.")] = None,
    data: Annotated[str | None, typer.Option(help="Prepared data set.")] = None,
    split: Annotated[str, typer.Option(help="Which split; every access to `test` is noted (--test-log).")] = "val",
    out: Annotated[str | None, typer.Option(help="Where report.html, metrics.json and the counts go.")] = None,
    predictions: Annotated[
        str | None, typer.Option(help="Score these <image_id>.png label maps instead of a checkpoint.")
    ] = None,
    subset: Annotated[
        list[str] | None, typer.Option(help="File of class ids that is scored under its own name; repeatable.")
    ] = None,
    pictures: Annotated[str | None, typer.Option(help="File of image ids; only these are scored.")] = None,
    label_map: Annotated[
        str | None, typer.Option("--map", help="TSV from one label space to another; scores are in the other.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="id<TAB>name of the space that --map leads to.")] = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Two --out folders: interval of the difference A - B.", metavar="A B")
    ] = None,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(help="Scoring processes; 0 = this one, without Ray.", min=0)] = 1,
    address: Address = None,
    device: Device = "auto",
    test_log: Annotated[
        str | None,
        typer.Option(help="Test-set access log, a line for each access to `test`; left out: OUT/test_access.jsonl."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score a checkpoint or label maps exactly, or compare two evaluations.

    Example: foodseg evaluate runs/a --data s3://bucket/meals --split test --out runs/a/test

    Example: foodseg evaluate runs/a --data prepared/other --map to_foodseg103.tsv --out runs/a/other

    Example: foodseg evaluate --compare runs/a/test runs/b/test
    """
    if compare is not None:
        _compare(compare, subset or [], as_json)
        return
    if data is None or out is None:
        missing = "--data" if data is None else "--out"
        raise UserError(f"{missing} is missing: foodseg evaluate CHECKPOINT --data URI --split val --out DIR")
    from foodseg.eval.ray_evaluate import evaluate as run_evaluation
    from foodseg.predict.device import parse_device
    from foodseg.storage import redact

    require_lasting("--out", out, address)
    if test_log is not None:
        require_lasting("--test-log", test_log, address)
    metrics = run_evaluation(
        checkpoint, data=data, split=split, out=out, predictions=predictions, subsets=subset or [], pictures=pictures,
        label_map=label_map, classes=classes,
        overrides=overrides or [], workers=workers, address=address, device=parse_device(device), test_log=test_log,
    )  # fmt: skip

    def show() -> None:
        from rich.console import Console

        from foodseg.eval.report_markdown import condition_mark, notes, scores_table
        from foodseg.eval.result_files import conditions_note
        from foodseg.eval.scores import Evaluation

        evaluation = Evaluation.from_json(metrics)
        Console().print(scores_table(evaluation, condition_mark(metrics.get("conditions"))))
        told = conditions_note(metrics)
        print("\n".join([*([f"Ingredients: {told}."] if told else []), *notes(evaluation)]))
        print(f"written to {redact(out)}: report.html, report.md, metrics.json, pictures.parquet")

    emit(metrics, as_json, show)


def _compare(folders: tuple[str, str], subset: list[str], as_json: bool) -> None:
    from foodseg import storage
    from foodseg.classes import ClassTable
    from foodseg.eval.compare import compare, shown_side
    from foodseg.eval.evaluate import read_subsets
    from foodseg.metrics.per_image import read_pictures

    (a, about_a), (b, about_b) = (read_pictures(storage.join(folder, "pictures.parquet")) for folder in folders)
    for key in ("classes", "split", "data"):
        if about_a[key] != about_b[key]:
            raise UserError(
                f"--compare: the evaluations differ in their {key}, and cannot be compared picture by picture"
            )
    classes = ClassTable(tuple(about_a["classes"]))
    result = compare(a, b, len(classes), subsets=read_subsets(subset, classes))
    named = dict(zip("ab", map(storage.redact, folders), strict=True))
    conditions = {"a": about_a["conditions"], "b": about_b["conditions"]}
    oracles = [side for side, each in conditions.items() if each and each["ingredients"] == "given"]

    def show() -> None:
        for side, folder in named.items():
            print(f"{side.upper()}: {shown_side(folder, conditions[side])}")
        print(f"\n{result.to_markdown()}")

    emit({**named, "conditions": conditions, "oracles": oracles, **result.to_json()}, as_json, show)


@app.command()
def predict(
    checkpoint: Annotated[str, typer.Argument(help="A run, a checkpoint directory or a URI of either.")],
    pictures: Annotated[list[str], typer.Argument(help="Picture files, folders of them, or URIs.")],
    out: Annotated[
        str, typer.Option(help="Where overlays, label maps and JSON go; files of others are never replaced.")
    ],
    ingredients: Annotated[
        str | None,
        typer.Option(help="What is on the pictures, names with commas between: sets eval.ingredients=given."),
    ] = None,
    device: Device = "auto",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Label pictures: overlay with legend, label map, area, share and confidence of each ingredient.

    Pictures that cannot be read are listed, and the exit code is 3; the others are labelled.

    Example: foodseg predict runs/a lunch.jpg dinner.jpg --out labelled

    Example: foodseg predict runs/a lunch.jpg --ingredients "rice, fried tofu" --out labelled
    """
    from foodseg.predict.device import parse_device
    from foodseg.predict.image_list import READ
    from foodseg.predict.label import label_pictures

    if checkpoint.lower().endswith(READ) and Path(checkpoint).is_file():
        right = shlex.join(["foodseg", "predict", pictures[-1], checkpoint, *pictures[:-1], "--out", out])
        raise UserError(f"{checkpoint} is an image, and the checkpoint comes first: {right}")
    done = label_pictures(checkpoint, pictures, out, overrides or [], ingredients, device=parse_device(device))
    if not done.results and len(done.refused) == 1:
        raise DataRefused("{picture}: {reason}".format_map(done.refused[0]))

    def show() -> None:
        for result in done.results:
            shares = ", ".join(f"{i['name']} {100 * i['share_of_food']:.0f} %" for i in result["ingredients"][:6])
            print(f"{result['overlay']}: {shares or 'no ingredient found'}")
        if not all(result["calibrated"] for result in done.results):
            why = "the checkpoint was not validated, or with other settings of eval"
            print(f"foodseg: confidences are not calibrated: {why}", file=sys.stderr)

    emit({"pictures": done.results, "refused": done.refused}, as_json, show)
    if done.refused:
        count = f"{len(done.refused)} of {len(done.results) + len(done.refused)} pictures cannot be read"
        others = ", the others are labelled" if done.results else ""
        print(f"foodseg: {count}{others}:", file=sys.stderr)
        for each in done.refused:
            print("  {picture}: {reason}".format_map(each), file=sys.stderr)
        raise typer.Exit(DataRefused.exit_code)


@app.command()
def doctor(
    storage: Annotated[str | None, typer.Option(help="A folder or s3:// prefix to try to write to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine and say what to fix.

    Example: foodseg doctor --storage s3://bucket/runs
    """
    from dataclasses import asdict

    from foodseg.doctor import diagnose

    checks = diagnose(storage)

    def show() -> None:
        for check in checks:
            print(
                f"{'ok  ' if check.ok else 'FIX '} {check.name}: {check.found}"
                + (f"; {check.fix}" if check.fix else "")
            )

    healthy = all(check.ok for check in checks)
    emit({"ok": healthy, "checks": [asdict(check) for check in checks]}, as_json, show)
    if not healthy:
        raise typer.Exit(UserError.exit_code)


@app.command()
def demo(
    data: Annotated[
        str | None, typer.Option(help="Your own pictures and masks, as for `data prepare`; left out: drawn meals.")
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


if __name__ == "__main__":
    main()
