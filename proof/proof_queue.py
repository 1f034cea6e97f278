"""`make proof`: a queue of resumable items, each of which writes its part of `evidence/<step>.json` when it is done.

    python -m proof.proof_queue --list
    python -m proof.proof_queue --only parity
    python -m proof.proof_queue --redo bench_data

A finished item is not run again. A failed item does not stop the others; run the same command again to retry it.
Big files go to `proof-runs/` (FOODSEG_PROOF_DIR); real data is read from `../shared` (FOODSEG_SHARED).
`step_<n>.py` holds the items of a step: ITEMS, a list of (name, function of a Bench that returns figures).
(This file is not called queue.py: it would hide Python's own `queue` from the scripts in this folder.)
"""

import argparse
import importlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOODSEG = (sys.executable, "-m", "foodseg")
RECORDED_AS = {"variants": "arms", "diffusion_variants": "diffusion_arms"}  # items recorded under an earlier name


class ItemError(Exception):
    """One sentence on why an item has no figures."""


@dataclass
class Bench:
    """What an item works with: folders, and commands that are run and remembered."""

    work: Path  # big files; kept between runs, so that finished parts are reused
    shared: Path  # real data
    commands: list[str] = field(default_factory=list)
    config_hash: str | None = None  # of the last command that named one

    def foodseg(self, *arguments: object, env: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Runs `foodseg ... --json` in the repository and returns its JSON object.

        Raises:
            ItemError: it exits with an error, or prints something else.
        """
        words = [*map(str, arguments), "--json"]
        output = self.run([*FOODSEG, *words], shown=["foodseg", *words], env=env)
        try:
            answer = json.loads(output)
        except ValueError:
            raise ItemError(f"`foodseg {' '.join(words[:2])}` printed no JSON object: {output[:200]!r}") from None
        self.config_hash = answer.get("config_hash", self.config_hash)
        return answer

    def python(self, *arguments: object, env: Mapping[str, str] | None = None) -> str:
        """Runs this Python with `arguments` in the repository and returns its stdout; raises as `foodseg`."""
        words = [str(argument) for argument in arguments]
        return self.run([sys.executable, *words], shown=["python", *words], env=env)

    def run(self, command: Sequence[str], *, shown: Sequence[str], env: Mapping[str, str] | None = None) -> str:
        """Runs a command in the repository; its stderr is passed on. Raises as `foodseg`."""
        text = shlex.join(shown).replace(str(self.work), "proof-runs").replace(str(self.shared), "../shared")
        self.commands.append(text)
        say(f"$ {text}")
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise ItemError(f"exit code {done.returncode} of `{text}` {done.stdout.strip()[-300:]}".rstrip())
        return done.stdout


Item = tuple[str, Callable[[Bench], dict[str, Any]]]


def run_queue(
    items: Sequence[Item],
    evidence: Path,
    bench: Callable[[], Bench],
    *,
    only: Sequence[str] = (),
    redo: Sequence[str] = (),
) -> list[str]:
    """Runs what is not finished, in order; returns the names of the items that failed.

    Args:
        items: name and function of each.
        evidence: the JSON file with one part per finished item.
        bench: makes a fresh one for each item.
        only: names to look at; empty = all.
        redo: names to run although they are finished; the old part stays until the new one is there.
    """
    failed = []
    for name, function in items:
        if only and name not in only:
            continue
        part = finished_part(read_evidence(evidence), name)
        if part is not None and name not in redo:
            say(f"{name}: reused, finished {part['finished']} at commit {part['commit']}")
            continue
        say(f"{name}: started")
        given, commit, started = bench(), current_commit(), time.monotonic()
        try:
            figures = function(given)
        except Exception as error:  # of any kind: the other items do not depend on it
            say(f"{name}: FAILED after {time.monotonic() - started:.0f} s: {type(error).__name__}: {error}")
            failed.append(name)
            continue
        seconds = round(time.monotonic() - started, 1)
        new = {
            "command": given.commands,
            "commit": commit,
            "config_hash": given.config_hash,
            "figures": figures,
            "seconds": seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(evidence, {**read_evidence(evidence), name: new})
        say(f"{name}: finished in {seconds:.0f} s -> {evidence.name}")
    return failed


def read_evidence(path: Path) -> dict[str, Any]:
    """Returns the finished parts by name."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def finished_part(parts: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Returns the part of an item, also one that was recorded under its earlier name; None where it is not finished."""
    part: dict[str, Any] | None = parts.get(name, parts.get(RECORDED_AS.get(name, name)))
    return part


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def current_commit() -> str:
    """Returns the commit that is checked out, with "-dirty" if tracked files differ from it (but for the evidence)."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!evidence")
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def say(line: str) -> None:
    """One progress line on stderr."""
    print(f"proof {time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def open_bench() -> Bench:
    """Returns a bench with the folders that the environment names."""
    work = Path(os.environ.get("FOODSEG_PROOF_DIR", "proof-runs"))
    if not work.is_absolute():
        work = ROOT / work
    work.mkdir(parents=True, exist_ok=True)
    return Bench(work=work, shared=Path(os.path.normpath(ROOT / os.environ.get("FOODSEG_SHARED", "../shared"))))


def main() -> int:
    """Runs the items of every step; exit code 1 if one failed, 2 for an unknown name, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m proof.proof_queue", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="say what is finished, and run nothing")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this item only; repeatable")
    parser.add_argument("--redo", action="append", default=[], metavar="NAME", help="although finished; repeatable")
    arguments = parser.parse_args()
    modules = sorted((path.stem for path in Path(__file__).parent.glob("step_*.py")), key=lambda stem: int(stem[5:]))
    steps: dict[str, list[Item]] = {stem: importlib.import_module(f"proof.{stem}").ITEMS for stem in modules}
    names = [name for items in steps.values() for name, _ in items]
    unknown = [name for name in (*arguments.only, *arguments.redo) if name not in names]
    if unknown:
        print(f"proof: there is no item {unknown[0]!r}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    failed = []
    for stem, items in steps.items():
        evidence = ROOT / "evidence" / f"{stem.replace('_', '-')}.json"
        if arguments.list:
            parts = read_evidence(evidence)
            for name, _ in items:
                part = finished_part(parts, name)
                print(f"{stem} {name}: {'finished ' + part['finished'] if part else 'to do'}")
            continue
        try:
            failed += run_queue(items, evidence, open_bench, only=arguments.only, redo=arguments.redo)
        except KeyboardInterrupt:
            say("interrupted; the same command resumes what is not finished")
            return 130
    if failed:
        say(f"failed: {', '.join(failed)}; the same command retries them")
    return 1 if failed else 0


if __name__ == "__main__":
    from proof import proof_queue  # the steps raise and catch the ItemError of this module, not that of __main__

    sys.exit(proof_queue.main())
