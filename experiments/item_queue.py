"""The queue of `make proof`: items that are run once, resumed after an interruption, and recorded in results.json.

    python -m experiments --list
    python -m experiments parity throughput/data
    python -m experiments --redo throughput

Each folder here asks one question. Its `run.py` holds ITEMS, a list of (name, function of a Bench that returns
figures); a finished item is a part of its `results.json`, with commands, commit and date, and is not run again. A
failed item does not stop the others; the same command retries it. Big files are in `experiment-runs/`
(FOODSEG_EXPERIMENTS): trained runs and their scores are reused from there, also by --redo. Real data is read from
`../shared` (FOODSEG_SHARED). Each access to a test set is noted in `experiments/test_access.jsonl`.
"""

import argparse
import fcntl
import importlib
import json
import os
import shlex
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "experiments"
FOODSEG = (sys.executable, "-m", "foodseg")
RUNS = "experiment-runs"


class ItemError(Exception):
    """One sentence on why an item has no figures."""


@dataclass
class Bench:
    """What an item works with: folders, and commands that are run and remembered."""

    work: Path  # big files; kept between runs, so that finished parts are reused
    shared: Path  # real data
    commands: list[str] = field(default_factory=list)
    config_hash: str | None = None  # of the last command that named one

    @property
    def test_log(self) -> Path:
        """What `foodseg evaluate --test-log` gets; the queue moves its lines to `experiments/test_access.jsonl`."""
        return self.work / f"test_access-{os.getpid()}.jsonl"  # two queues may be running

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
        text = self.portable(shlex.join(shown))
        self.commands.append(text)
        say(f"$ {text}")
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(env or {})}, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise ItemError(f"exit code {done.returncode} of `{text}` {done.stdout.strip()[-300:]}".rstrip())
        return done.stdout

    def run_tests(self, *paths: str) -> dict[str, Any]:
        """Runs tests that must all pass; CI=true makes a missing S3 server a failure instead of a skip."""
        report = self.work / f"{Path(paths[0]).stem}.xml"
        self.python("-m", "pytest", "-q", *paths, f"--junitxml={report}", env={"CI": "true"})
        cases = list(ElementTree.parse(report).iter("testcase"))
        skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
        if skipped or not cases:
            names = ", ".join(map(str, skipped))
            raise ItemError(f"{paths[0]}: {len(skipped)} of {len(cases)} tests were skipped: {names}")
        return {"passed": len(cases), "tests": [case.get("name") for case in cases]}

    def portable(self, text: str) -> str:
        """Returns a text without the folders of this machine."""
        return text.replace(str(self.work), RUNS).replace(str(self.shared), "../shared")


Item = tuple[str, Callable[[Bench], dict[str, Any]]]


def removed(bench: Bench) -> dict[str, Any]:
    """The item of a record whose option has left foodseg since: the record stays, and is not made again.

    Raises:
        ItemError: always.
    """
    raise ItemError("what it measured is no longer part of foodseg; its commit is in results.json")


def run_queue(items: Sequence[Item], results: Path, bench: Callable[[], Bench], *, redo: bool = False) -> list[str]:
    """Runs what is not finished, in order; returns the names of the items that failed.

    Args:
        items: name and function of each.
        results: the JSON file with one part per finished item; the test-set access log is next to its folder.
        bench: makes a fresh one for each item.
        redo: also run finished items; the old part stays until the new one is there.
    """
    failed = []
    for name, function in items:
        part = read_results(results).get(name)
        if part is not None and not redo:
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
        finally:
            _note_test_accesses(given, results.parent.parent / "test_access.jsonl")
        seconds = round(time.monotonic() - started, 1)
        new = {
            "command": given.commands,
            "commit": commit,
            "config_hash": given.config_hash,
            "figures": figures,
            "seconds": seconds,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        _add_result(results, name, new)
        say(f"{name}: finished in {seconds:.0f} s -> {results.parent.name}/{results.name}")
    return failed


def _add_result(results: Path, name: str, part: Mapping[str, Any]) -> None:
    """Adds a part to the file; two queues may be running, each with items of its own."""
    results.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(results.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        write_json(results, {**read_results(results), name: part})
    finally:
        os.close(folder)


def _note_test_accesses(bench: Bench, log: Path) -> None:
    if bench.test_log.exists():
        with log.open("a", encoding="utf-8") as file:
            file.write(bench.portable(bench.test_log.read_text(encoding="utf-8")))
        bench.test_log.unlink()


def read_results(path: Path) -> dict[str, Any]:
    """Returns the finished parts by name."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes the whole file or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def current_commit() -> str:
    """Returns the commit that is checked out, with "-dirty" if files that the queue does not write differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        written = (":!experiments/*/results.json", ":!experiments/*/counts", ":!experiments/test_access.jsonl")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *written)
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def say(line: str) -> None:
    """One progress line on stderr."""
    print(f"experiments {time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def open_bench() -> Bench:
    """Returns a bench with the folders that the environment names."""
    work = Path(os.environ.get("FOODSEG_EXPERIMENTS", RUNS))
    if not work.is_absolute():
        work = ROOT / work
    work.mkdir(parents=True, exist_ok=True)
    return Bench(work=work, shared=Path(os.path.normpath(ROOT / os.environ.get("FOODSEG_SHARED", "../shared"))))


def folders() -> dict[str, list[Item]]:
    """Returns the items of each folder that has a `run.py`."""
    names = sorted(path.parent.name for path in HERE.glob("*/run.py"))
    return {name: importlib.import_module(f"experiments.{name}.run").ITEMS for name in names}


def main() -> int:
    """Runs items; exit code 1 if one failed, 2 for an unknown name, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a folder, or folder/item; left out: all")
    parser.add_argument("--list", action="store_true", help="say what is finished, and run nothing")
    parser.add_argument("--redo", action="store_true", help="also run items that are finished")
    arguments = parser.parse_args()
    wanted = folders()
    known = [*wanted, *(f"{folder}/{name}" for folder, items in wanted.items() for name, _ in items)]
    unknown = [name for name in arguments.names if name not in known]
    if unknown:
        print(f"experiments: there is no {unknown[0]!r}; `python -m experiments --list` names all", file=sys.stderr)
        return 2
    failed = []
    for folder, items in wanted.items():
        if arguments.names and folder not in arguments.names:
            items = [item for item in items if f"{folder}/{item[0]}" in arguments.names]
        results = HERE / folder / "results.json"
        if arguments.list:
            parts = read_results(results)
            for name, _ in items:
                print(f"{folder}/{name}: {'finished ' + parts[name]['finished'] if name in parts else 'to do'}")
            continue
        try:
            failed += [f"{folder}/{name}" for name in run_queue(items, results, open_bench, redo=arguments.redo)]
        except KeyboardInterrupt:
            say("interrupted; the same command resumes what is not finished")
            return 130
    if failed:
        say(f"failed: {', '.join(failed)}; the same command retries them")
    return 1 if failed else 0
