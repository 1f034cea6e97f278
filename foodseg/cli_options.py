"""Options that several commands share, and how a command gives its result."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, errors too.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster to join: 'auto' or host:port. Left out: this machine alone.")
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", "-c", help="YAML file; holds what differs from the defaults.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", "-s", help="section.key=value, stronger than the file.")]


def emit(result: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """Prints the result as one JSON object on stdout, or calls `show` to print it for people."""
    if as_json:
        print(json.dumps(result))
    else:
        show()
