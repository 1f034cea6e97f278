"""Options that several commands share, and how a command gives its result."""

import json
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from foodseg.errors import UserError

_IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for what `ray job submit` starts, and for nothing else

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, errors too.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join: 'auto' or host:port. Left out: this machine alone.")
]
Device = Annotated[
    str, typer.Option(help="Device to compute on: cpu, gpu (CUDA, or mps on a Mac), or auto (a GPU if there is one).")
]
RuntimeName = Annotated[
    str | None,
    typer.Option(
        "--runtime",
        help="What computes a model of `foodseg export`: onnxruntime or openvino, which runs ONNX, too; left out: the "
        "runtime of its format. A checkpoint is computed by torch alone.",
    ),
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", "-c", help="YAML file; holds what differs from the defaults.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", "-s", help="section.key=value, stronger than the file.")]


class Stopped(Exception):
    """A command was asked to stop and has said so, with its result."""


def on_cluster(address: str | None) -> bool:
    """True where a command joins a cluster, or was submitted to one as a job."""
    return address is not None or _IN_JOB in os.environ


def require_lasting(name: str, uri: str, address: str | None) -> None:
    """Refuses a relative path on a cluster: a job runs in a copy of its folder, which Ray deletes.

    Raises:
        UserError: `uri`, the value of the option or key `name`, is relative.
    """
    if on_cluster(address) and "://" not in uri and not uri.startswith(("/", "~")):
        raise UserError(
            f"{name} {uri!r} is relative, and on a cluster that is a folder which Ray deletes: "
            "name s3:// or an absolute path that outlives the job"
        )


def emit(result: Mapping[str, object], as_json: bool, show: Callable[[], None]) -> None:
    """Prints the result as one JSON object on stdout, or calls `show` to print it for people."""
    if as_json:
        print(json.dumps(result))
    else:
        show()


def example_of(error: Exception) -> str:
    """Returns the first example of the command that was given wrongly, from its help."""
    command = getattr(getattr(error, "ctx", None), "command", None)
    found = re.search(r"^\s*Example: (.*)", getattr(command, "help", None) or "", re.M)
    return f"; for example: {found[1]}" if found else ""
