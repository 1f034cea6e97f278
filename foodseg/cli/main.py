"""The `foodseg` command: parse, call one function, print. Everything heavy is imported inside the commands."""

import json
import re
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from foodseg.cli.bench import bench_app
from foodseg.cli.config import config_app
from foodseg.cli.data import data_app
from foodseg.cli.demo import demo
from foodseg.cli.doctor import doctor
from foodseg.cli.evaluate import evaluate
from foodseg.cli.export import export
from foodseg.cli.options import Stopped, example_of
from foodseg.cli.predict import predict
from foodseg.cli.serve import serve_app
from foodseg.cli.train import train
from foodseg.cli.tune import ablate, tune
from foodseg.cli.zero_shot import zero_shot
from foodseg.errors import EXIT_INTERRUPTED, EXIT_OUR_FAULT, FoodsegError, UserError

app = typer.Typer(
    help="Which ingredient is where on an image of food: prepare, train, evaluate, predict; on a laptop or on Ray.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data_app, name="data")
app.add_typer(config_app, name="config")
app.add_typer(bench_app, name="bench")
app.add_typer(serve_app, name="serve")
for command in (train, evaluate, predict, export, zero_shot, tune, ablate, doctor, demo):
    app.command()(command)


def main() -> None:
    """Runs the command line; every expected failure is one sentence on stderr and its exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` sets it
            signal.signal(number, _interrupt)
    sys.exit(run(sys.argv[1:]))


def _interrupt(number: int, frame: FrameType | None) -> None:
    """`kill` and a terminal that is closed end a command as Ctrl-C does: what it has started is ended first."""
    raise KeyboardInterrupt


def _resumed_by(arguments: list[str]) -> str:
    if arguments[:1] in (["train"], ["tune"], ["ablate"]):
        return "; resume it with --resume"
    return "; the same command resumes it" if arguments[:2] in (["data", "prepare"], ["data", "map"]) else ""


def run(arguments: list[str]) -> int:
    """Runs one command and returns its exit code; stdout holds results, stderr everything else."""
    from foodseg.logs import log_to_stderr

    log_to_stderr()
    as_json = "--json" in arguments
    try:
        code = app(arguments, standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # what typer makes of KeyboardInterrupt
            return _fail(f"interrupted{_resumed_by(arguments)}", EXIT_INTERRUPTED, as_json)
        return code if isinstance(code, int) else 0
    except Stopped:
        return EXIT_INTERRUPTED
    except FoodsegError as error:
        return _fail(str(error), error.exit_code, as_json)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own: a missing argument, an unknown option
            message = error.format_message().strip().rstrip(".")
            if not message:  # a bare `foodseg` or `foodseg data`: its help is printed already
                return UserError.exit_code
            return _fail(f"{message}{example_of(error)} (see --help)", UserError.exit_code, as_json)
        if type(error).__name__ == "Abort":
            return _fail("interrupted", EXIT_INTERRUPTED, as_json)
        import traceback

        traceback.print_exc()
        return _fail(f"internal error, please report it: {type(error).__name__}: {error}", EXIT_OUR_FAULT, as_json)


def _fail(sentence: str, code: int, as_json: bool) -> int:
    from foodseg.storage import redact

    sentence = redact(re.sub(r"\s*[\r\n]\s*", " ", sentence.strip()))  # what a library said may have line breaks
    if as_json:
        print(json.dumps({"error": {"message": sentence, "exit_code": code}}))
    print(f"foodseg: {sentence}", file=sys.stderr)
    return code


def _version(wanted: bool) -> None:
    if wanted:
        for name, version in _versions().items():
            print(f"{name} {version}")
        raise typer.Exit


def _versions() -> dict[str, str]:
    """Returns the versions that matter when somebody asks for help: of the code, its file formats, Ray and torch."""
    from importlib.metadata import version

    from foodseg import __version__
    from foodseg.checkpoint.manifest import FORMAT_VERSION as CHECKPOINT_FORMAT
    from foodseg.data.shards import FORMAT_VERSION as DATA_FORMAT

    return {
        "foodseg": __version__,
        "data format": str(DATA_FORMAT),
        "checkpoint format": str(CHECKPOINT_FORMAT),
        "ray": version("ray"),
        "torch": version("torch"),
    }


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Code, format, Ray and torch versions.")
    ] = False,
) -> None:
    """Which ingredient is where on an image of food."""
