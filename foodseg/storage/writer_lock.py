"""Keeps two commands from writing one run or sweep at the same time.

    with in_use("s3://bucket/runs/a", "run.uri"):
        ...                            # nobody else writes there meanwhile

The folder holds `in-use.json` meanwhile: which process writes there, and its newest sign of life. The file of a killed
command does not count: on its own machine as soon as its process is gone, elsewhere once it has been silent for
SILENT_SECONDS. It is created, and replaced, only where nobody else did so meanwhile: of two commands that begin at the
same moment one is refused.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil

from foodseg import storage
from foodseg.cluster.orphans import lives, namespace
from foodseg.errors import FoodsegError, MissingFile, UserError

FILE = "in-use.json"
SIGN_SECONDS = 15.0  # between two signs of life
SILENT_SECONDS = 60.0
_ACTIVE: set[str] = set()  # of this process
_log = logging.getLogger(__name__)


@contextlib.contextmanager
def in_use(uri: str, key: str) -> Iterator[None]:
    """Marks a folder as written by this process within the body.

    Args:
        key: of the configuration, that names the folder; for messages.

    Raises:
        UserError: another process writes there.
    """
    where, own = storage.join(uri, FILE), uuid.uuid4().hex
    _ACTIVE.add(own)
    try:
        while not _claimed(where, own, _ended_version(uri, key)):
            pass  # somebody else began at the same moment, and is refused or refuses
        done = threading.Event()
        thread = threading.Thread(target=_keep_signing, args=(where, own, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            # where storage is away the file stays, and names a process that has ended
            thread.join(timeout=SIGN_SECONDS)
    finally:
        _ACTIVE.discard(own)


def refuse_in_use(uri: str, key: str) -> None:
    """Raises UserError where another process writes; waits for a sign of life of one on another machine."""
    _ended_version(uri, key)


def _ended_version(uri: str, key: str) -> str | None:
    """As `refuse_in_use`; returns the version of a file that does not count any more, None without one."""
    where = storage.join(uri, FILE)
    found, version = _read(where)
    if not found or _ended(found):
        return version
    if not _is_here(found):
        _log.info("%s may be in use on %s: waiting for a sign of life", storage.redact(uri), found["host"])
        while time.time() - found["at"] <= SILENT_SECONDS:
            time.sleep(min(1.0, SIGN_SECONDS))
            now, version = _read(where)
            if now.get("at") != found["at"]:
                found = now
                break
    if found and not _ended(found):
        raise UserError(
            f"{key} {storage.redact(uri)} is being written by another command (process id {found['pid']} on "
            f"{found['host']}): wait until it has ended, or name another {key}"
        )
    return version


def _ended(found: dict[str, Any]) -> bool:
    if not _is_here(found):
        return bool(time.time() - found["at"] > SILENT_SECONDS)
    if found["pid"] == os.getpid():
        return found["id"] not in _ACTIVE
    with contextlib.suppress(psutil.Error):
        # a process that began after the last sign has only inherited the number
        return not lives(found["pid"]) or psutil.Process(found["pid"]).create_time() > found["at"] + 1
    return True


def _is_here(found: dict[str, Any]) -> bool:
    return (found["host"], found["namespace"]) == (socket.gethostname(), namespace())


def _claimed(where: str, own: str, version: str | None) -> bool:
    """Whether the sign of life could be written in place of that version."""
    here = {"host": socket.gethostname(), "namespace": namespace(), "pid": os.getpid()}
    data = json.dumps({"id": own, "at": time.time(), **here}, indent=2).encode()
    return storage.create_bytes(where, data) if version is None else storage.replace_bytes(where, data, version)


def _keep_signing(where: str, own: str, done: threading.Event) -> None:
    """Writes signs of life, and removes the file at the end, while it is the own one."""
    while True:
        ended = done.wait(SIGN_SECONDS)
        with contextlib.suppress(FoodsegError):  # storage is away: the training itself says so
            found, version = _read(where)
            if found.get("id") == own:
                if ended:
                    storage.delete(where)
                else:
                    _claimed(where, own, version)
        if ended:
            return


def _read(where: str) -> tuple[dict[str, Any], str | None]:
    """Returns what the file holds, {} if it is not one of ours, and its version, None if there is no such file."""
    try:
        data, version = storage.read_versioned(where)
    except MissingFile:
        return {}, None
    try:
        found = json.loads(data)
    except ValueError:
        return {}, version
    kinds = {"id": str, "host": str, "namespace": str, "pid": int, "at": float}
    whole = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    return (found if whole else {}), version
