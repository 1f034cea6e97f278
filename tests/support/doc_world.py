"""The files that README.md and docs/*.md speak of, small: a folder in which their code blocks run.

    make_doc_world(folder)
    with Shell(folder, "http://127.0.0.1:8123") as shell:
        shell.run("foodseg predict runs/first lunch.jpg --out labelled")

bash runs the blocks as they are written. `foodseg` in them is a small program that hands its arguments to this process:
one command after the other shares one Ray and one import of torch, else each would take ten seconds.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import yaml

from foodseg.cli.main import run
from foodseg.demo.synthetic import SYNTHETIC_CLASSES, draw_meal, write_meals
from tests.support.synthetic_set import write_table
from tests.support.tiny_checkpoints import (
    free_port,
    write_checkpoint,
    write_clip,
    write_open_vocabulary,
    write_region_classifier,
)
from tests.support.tiny_world import TINY_RUN, set_options, write_prepared

ROOT = Path(__file__).resolve().parents[2]
HEIGHT, WIDTH = 240, 320  # of lunch.jpg, where the documents click on it
LUNCH, DINNER = 5, 9  # seeds
ADDRESS = "http://127.0.0.1:8000"  # of the endpoint, as it is written in the documents
# What makes the shipped configurations small enough for a test; all else in them stays as it is.
TINY: dict[str, dict[str, Any]] = {
    "augment": {"longest_side": 64, "crop": 64},
    "model": {"backbone": "test_resnet", "weights": "none", "pyramid_channels": 8, "decoder_channels": 8},
    "train": {"steps": 4, "global_batch": 2, "validate_every": 2, "checkpoint_every": 2},
    "eval": {"longest_side": 64},
    "scaling": {"num_workers": 0},
}
_CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as link:
    link.connect({path!r})
    link.sendall(json.dumps({{"cwd": os.getcwd(), "arguments": sys.argv[1:]}}).encode() + b"\\n")
    answer = json.loads(link.makefile(encoding="utf-8").readline())
sys.stderr.write(answer["stderr"])
sys.stdout.write(answer["stdout"])
sys.exit(answer["code"])
"""


def make_doc_world(folder: Path) -> None:
    """Writes everything that the documents' commands read, as if all earlier commands of them had been run."""
    write_meals(folder / "my" / "meals", train=10, test=3, seed=0, longest_side=64)
    write_clip(folder / "models" / "clip")
    write_prepared(folder / "my" / "meals", folder / "prepared" / "meals")
    for name, seed in (("lunch", LUNCH), ("dinner", DINNER)):
        cv2.imwrite(str(folder / f"{name}.jpg"), cv2.cvtColor(draw_meal(seed, HEIGHT, WIDTH)[0], cv2.COLOR_RGB2BGR))
    _write_label_spaces(folder)
    _write_configs(folder)
    for name in ("names", "permuted"):
        write_table(folder / f"{name}.safetensors")
    settings = set_options(*TINY_RUN, f"data.uri={folder / 'prepared/meals'}", f"run.uri={folder / 'runs/first'}")
    assert run(["train", *settings]) == 0
    for copy in ("runs/second", "demo-out/run"):
        shutil.copytree(folder / "runs" / "first", folder / copy)
    (folder / "demo-out" / "meals" / "images").mkdir(parents=True)
    shutil.copyfile(folder / "lunch.jpg", folder / "demo-out" / "meals" / "images" / "synthetic__0100.jpg")
    text = (
        "fusion=cross_attention",
        "text.kind=table",
        f"text.table={folder / 'names.safetensors'}",
        "ingredient_head=true",
    )
    settings = [*(f"model.{setting}" for setting in text), "loss.ingredients=0.2"]
    write_checkpoint(folder / "runs" / "names", 1, *settings)
    write_open_vocabulary(folder / "runs" / "open")
    write_region_classifier(folder / "runs" / "roi")
    masks = folder / "lunch-masks"
    masks.mkdir()
    cv2.imwrite(str(masks / "lunch.png"), draw_meal(LUNCH, HEIGHT, WIDTH)[1])
    (folder / "confused.tsv").write_text("\t".join(SYNTHETIC_CLASSES.names[1:3]) + "\n")
    shutil.copytree(folder / "my" / "meals" / "masks", folder / "peer-maps")


def _write_label_spaces(folder: Path) -> None:
    """`to_foodseg103.tsv` merges the synthetic ids into four of a table that is called foodseg103.tsv."""
    target = ("background", "rice", "noodles", "egg")
    lines = ["meals_id\tmeals_name\tfoodseg103_id\tfoodseg103_name"]
    for index, name in enumerate(SYNTHETIC_CLASSES.names):
        other = 1 + index % 3 if index else 0
        lines.append(f"{index}\t{name}\t{other}\t{target[other]}")
    (folder / "to_foodseg103.tsv").write_text("\n".join([*lines, ""]))
    (folder / "foodseg103.tsv").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(target)))
    (folder / "soy_classes.txt").write_text("1\n5\n")


def _write_configs(folder: Path) -> None:
    """The shipped configurations, made tiny, and the deploy files as they are."""
    shutil.copytree(ROOT / "serve_configs", folder / "serve_configs")
    (folder / "jobs" / "configs").mkdir(parents=True)
    for path in (ROOT / "jobs" / "configs").glob("*.yaml"):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = tree.get("config", tree)
        if config.get("model", {}).get("kind") != "diffusion":
            config.get("train", {}).pop("epochs", None)
            for section, values in TINY.items():
                config[section] = {**config.get(section, {}), **values}
            _make_vit_tiny(config["model"])
            _leave_out_what_is_not_used(config)
        tree.get("sweep", {}).update({"trials": 2} if "sweep" in tree else {})
        tree.get("ablation", {}).update({"folds": 2} if "ablation" in tree else {})
        (folder / "jobs" / "configs" / path.name).write_text(yaml.safe_dump(tree, sort_keys=False))


def _make_vit_tiny(model: dict[str, Any]) -> None:
    """A plain ViT as the backbone, or next to it, becomes one of timm's for tests."""
    if model.get("kind") == "open_vocabulary":
        model["backbone"] = "test_vit"
        del model["pyramid_channels"], model["decoder_channels"]
    elif "vit" in model:
        model["vit"] |= {"backbone": "test_vit", "weights": "none"}


def _leave_out_what_is_not_used(config: dict[str, Any]) -> None:
    if config["model"].get("kind") == "realtime":
        config["model"]["backbone"] = "test_efficientnet"
        del config["model"]["pyramid_channels"]
    if config["model"].get("kind") == "roi":
        for section, key in (
            ("augment", "longest_side"), ("eval", "longest_side"), ("model", "pyramid_channels"),
            ("model", "decoder_channels"),
        ):  # fmt: skip
            del config[section][key]


class Shell:
    """Runs bash in a folder; the commands `foodseg` of it run in this process, which has to be in its main thread."""

    def __init__(self, folder: Path, endpoint: str) -> None:
        """endpoint: address that takes the place of ADDRESS."""
        self.folder, self._endpoint = folder, endpoint
        self._bin = folder / ".bin"

    def __enter__(self) -> "Shell":
        self._bin.mkdir()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(0.1)
        # the path of a socket has at most 107 characters, and folders of tests are deep
        self._path = f"/tmp/foodseg-docs-{os.getpid()}-{free_port()}"
        self._socket.bind(self._path)
        self._socket.listen()
        self._write("foodseg", _CLIENT.format(python=sys.executable, path=self._path))
        for name in ("python", "python3"):
            self._write(name, f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        Path(self._path).unlink()

    def run(self, text: str) -> str:
        """Runs a block; returns its stdout. AssertionError with its stderr: a command of it failed."""
        environment = {**os.environ, "PATH": f"{self._bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        command = ["bash", "-euo", "pipefail", "-c", text.replace(ADDRESS, self._endpoint)]
        with (self.folder / ".stdout").open("w+") as out, (self.folder / ".stderr").open("w+") as errors:
            bash = subprocess.Popen(command, cwd=self.folder, env=environment, stdout=out, stderr=errors)
            while bash.poll() is None:
                with contextlib.suppress(TimeoutError):
                    self._serve_one()
            out.seek(0)
            errors.seek(0)
            assert bash.returncode == 0, f"exit code {bash.returncode} of\n{text}\n{errors.read()[-4000:]}"
            return out.read()

    def _serve_one(self) -> None:
        link, _ = self._socket.accept()
        with link:
            link.settimeout(None)
            asked = json.loads(link.makefile(encoding="utf-8").readline())
            code, out, errors = _command(asked["arguments"], asked["cwd"])
            link.sendall(json.dumps({"code": code, "stdout": out, "stderr": errors}).encode() + b"\n")

    def _write(self, name: str, text: str) -> None:
        (self._bin / name).write_text(text)
        (self._bin / name).chmod(0o755)


class _Endless(io.StringIO):
    """Takes the output of `foodseg serve`, and presses Ctrl-C when it says that it serves."""

    def write(self, text: str) -> int:
        if "serving at " in text:
            main = threading.main_thread().ident
            assert main is not None
            threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        return super().write(text)


def _command(arguments: list[str], cwd: str) -> tuple[int, str, str]:
    """Runs a command in a folder; returns its exit code, stdout and stderr."""
    serves = arguments[:1] == ["serve"] and arguments[1:2] != ["swap"]
    out, errors = (_Endless() if serves else io.StringIO()), io.StringIO()
    if serves:
        arguments = [*arguments, "--set", f"http.port={free_port()}"]
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = run(arguments)
    return code, out.getvalue(), errors.getvalue()
