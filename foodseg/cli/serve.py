"""`foodseg serve`: the endpoint, and the swap of a model in a running one."""

import contextlib
import sys
import threading
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from foodseg.cli.options import Address, AsJson, Overrides, emit


class _RunByDefault(TyperGroup):
    """`foodseg serve FILE` is `foodseg serve run FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] != "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


serve_app = typer.Typer(
    cls=_RunByDefault,
    help="Serve checkpoints, SAM and CLIP over HTTP: foodseg serve [FILE], foodseg serve swap ...",
    no_args_is_help=False,
)


@serve_app.command("run")
def serve_run(
    config: Annotated[str | None, typer.Argument(help="Ray Serve's deploy file, as serve_configs/local.yaml.")] = None,
    overrides: Overrides = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Start the endpoint; Ctrl-C stops it. The word `run` may be left out.

    Without a file it serves the newest run in runs/, and the Segment Anything weights in weights/.

    Example: foodseg serve run serve_configs/local.yaml

    Example: foodseg serve --set segmenter.models.meals=runs/a --set http.port=9000
    """
    from foodseg.serve.model_discovery import settings_here
    from foodseg.serve.ray_serving import serving

    stdout, found = sys.stdout, settings_here(config, overrides or [], address)
    for sentence in found.sentences:
        _say(sentence)
    with serving(config, found.overrides, address, _say) as endpoint:
        result = {"url": endpoint.url, "ray": endpoint.ray, "metrics": endpoint.metrics}

        def show() -> None:
            print(f"serving at {endpoint.url}  (API: {endpoint.url}docs)")
            print(f"swap a model with: foodseg serve swap NAME CHECKPOINT --address {endpoint.ray}")
            if endpoint.metrics:
                print(f"metrics: {endpoint.metrics}")

        with contextlib.redirect_stdout(stdout):  # meanwhile it is stderr, for what Ray prints
            emit(result, as_json, show)
        stdout.flush()
        # the usual end, not an interruption; SIGTERM and SIGHUP raise it, too
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
        _say("stopping: requests in flight are answered first; press Ctrl-C again to stop at once")


def _say(sentence: str) -> None:
    print(f"foodseg: {sentence}", file=sys.stderr, flush=True)


@serve_app.command("swap")
def serve_swap(
    name: Annotated[str, typer.Argument(help="Public name of the model.")],
    checkpoint: Annotated[
        str, typer.Argument(help="A run, a checkpoint directory, a URI of either, or hf://owner/name.")
    ],
    address: Annotated[str, typer.Option(help="Ray cluster of the endpoint: 'auto' or host:port.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """Serve another checkpoint under a name, without a restart; a bad checkpoint is refused and changes nothing.

    Example: foodseg serve swap meals runs/b --address 127.0.0.1:6379
    """
    from foodseg.serve.ray_serving import swap

    result = swap(name, checkpoint, address)

    def show() -> None:
        before = f", before {result.before[:12]}" if result.before else ""
        print(f"{name} is now {result.sha[:12]}{before}: {result.checkpoint} ({result.seconds:.1f} s)")
        print("a redeployment of the file restores the checkpoint in the file: change it there, too")

    emit(result.to_json(), as_json, show)
