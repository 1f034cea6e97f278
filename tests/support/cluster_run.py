"""Prepares, trains and evaluates on a Ray cluster, each as a user's command; one process, so that it starts once.

python -m tests.support.cluster_run ADDRESS FOLDER      # FOLDER holds meals/ and config.yaml; prints one JSON line each
"""

import sys
from pathlib import Path

from foodseg.cli.main import run


def main(address: str, folder: Path) -> int:
    joined = ["--address", address, "--json"]
    prepared, trained = str(folder / "prepared"), str(folder / "run")
    commands = [
        ["data", "prepare", str(folder / "meals"), prepared],
        ["train", "--config", str(folder / "config.yaml")],
        ["evaluate", trained, "--data", prepared, "--split", "val", "--out", str(folder / "scores"), "--workers", "2"],
    ]
    for command in commands:
        code = run([*command, *joined])
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
