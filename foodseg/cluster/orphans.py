"""Ends the processes of a Ray that foodseg started once the command that started it has ended, for whatever reason.

    with keeper() as environment:      # of everything that is to end with this process
        ...                            # start them

A command that is killed (SIGKILL) cannot tidy up. Ray's own processes notice the loss, but not all of them: the
controller of a training waits for its workers forever. So a small process of our own holds one end of a pipe whose
other end the command holds. The kernel closes that end however the command dies. Then whatever carries the mark of the
command in its environment is given a moment to end, and is killed. Children inherit the mark, on Linux and on macOS, a
process group of their own or not.
"""

import contextlib
import json
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil

MARK = "FOODSEG_STARTED_BY"  # "<process id>/<namespace of process ids>/<random>" of the command
GRACE_SECONDS = 5.0  # for what ends by itself
LIMIT_SECONDS = 60.0  # a process that waits for a broken disk cannot be killed
_LOOK_SECONDS = 0.2
_STARTER = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from foodseg.cluster.orphans import keep; keep()"
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def keeper(grace: float = GRACE_SECONDS) -> Iterator[dict[str, str]]:
    """Yields variables for the environment of whatever is to end with this process.

    At the end of the body it waits until they have ended; after `grace` seconds they are killed. What earlier commands
    of this machine have left behind is named in one line of the log, and ended too.
    """
    mark = f"{os.getpid()}/{namespace()}/{uuid.uuid4().hex}"
    left = leftovers()
    for other, processes in left.items():
        _log.warning(
            "the command with process id %s was killed and has left behind %s: ending %s",
            other.partition("/")[0],
            ", ".join(_in_words(process) for process in processes),
            "it" if len(processes) == 1 else "them",
        )
    process = subprocess.Popen(
        [sys.executable, "-c", _STARTER, json.dumps(sys.path), str(grace), mark, *left],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # else a reader of this command's output would wait for it
        stderr=subprocess.DEVNULL,
        # without the mark: else a later keeper would end it as a leftover
        env={name: value for name, value in os.environ.items() if name != MARK},
        start_new_session=True,  # Ctrl-C and a closed terminal are for the command
    )
    assert process.stdin is not None
    try:
        # Ray's processes change their titles, which would overwrite the variables as others see them
        yield {MARK: mark, "SPT_NOENV": "1"}
    finally:
        process.stdin.close()
        process.wait()


def keep() -> None:
    """Runs in the process that `keeper` starts; arguments: grace, its own mark, those of commands that were killed."""
    grace, own, *others = sys.argv[2:]
    for mark in others:
        end_marked(mark, float(grace))
    sys.stdin.buffer.read()  # ends with the command
    end_marked(own, float(grace))


def end_marked(mark: str, grace: float) -> None:
    """Returns once no process carries the mark; after `grace` seconds they are killed."""
    began, quiet = time.monotonic(), 0
    while quiet < 2 and time.monotonic() - began < LIMIT_SECONDS:
        found = [process for process, carried in _marked() if carried == mark]
        quiet = 0 if found else quiet + 1  # one that is just being started is seen by the second look
        if time.monotonic() - began >= grace:
            for process in found:
                with contextlib.suppress(psutil.Error):
                    process.kill()
        time.sleep(_LOOK_SECONDS)


def leftovers() -> dict[str, list[psutil.Process]]:
    """Returns by mark the processes whose command has ended."""
    found: dict[str, list[psutil.Process]] = {}
    for process, mark in _marked():
        pid, container, _ = mark.split("/")
        if container == namespace() and not lives(int(pid)):
            found.setdefault(mark, []).append(process)
    return found


def _marked() -> Iterator[tuple[psutil.Process, str]]:
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # of another user, or it has just ended
            mark = process.environ().get(MARK, "")
            if mark.count("/") == 2 and process.status() != psutil.STATUS_ZOMBIE:
                yield process, mark


def lives(pid: int) -> bool:
    """True for a process that exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def namespace() -> str:
    """Returns an id of the process namespace: process ids of different containers are not compared. "0" if unknown."""
    path = Path("/proc/self/ns/pid")
    return str(path.stat().st_ino) if path.exists() else "0"


def _in_words(process: psutil.Process) -> str:
    try:
        with process.oneshot():
            title = (process.cmdline() or [process.name()])[0].rpartition("/")[2]
            return f"{title} (process id {process.pid}, {process.memory_info().rss >> 20} MiB)"
    except psutil.Error:
        return f"process id {process.pid}"
