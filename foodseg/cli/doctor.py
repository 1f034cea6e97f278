"""`foodseg doctor`: what is wrong with this machine (`diagnosis`)."""

from typing import Annotated

import typer

from foodseg.cli.options import AsJson, emit
from foodseg.errors import UserError


def doctor(
    storage: Annotated[str | None, typer.Option(help="A folder or s3:// prefix to try to write to.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine and say what to fix.

    Example: foodseg doctor --storage s3://bucket/runs
    """
    from dataclasses import asdict

    from foodseg.cli.diagnosis import diagnose

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
