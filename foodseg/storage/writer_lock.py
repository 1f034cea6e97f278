"""Keeps two commands from writing one run or sweep at the same time.

    with in_use("s3://bucket/runs/a", "run.uri"):
        ...                            # nobody else writes there meanwhile

The folder holds `in-use.json` meanwhile: which process writes there, and its newest sign of life. The file of a killed
command does not count: on its own machine as soon as its process is gone, elsewhere once it has been silent for
SILENT_SECONDS. S3 is not asked for a create-only write, so two commands that begin within the same second may both
write there.
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
    refuse_in_use(uri, key)
    where, own = storage.join(uri, FILE), uuid.uuid4().hex
    _sign(where, own)
    if _read(where).get("id") != own:  # somebody else began at the same moment
        refuse_in_use(uri, key)
    _ACTIVE.add(own)
    done = threading.Event()
    thread = threading.Thread(target=_keep_signing, args=(where, own, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        _ACTIVE.discard(own)
        thread.join(timeout=SIGN_SECONDS)
        # where storage is away the file stays, and names a process that has ended
        with contextlib.suppress(FoodsegError), storage.retry_for(SIGN_SECONDS):
            if _read(where).get("id") == own:
                storage.delete(where)


def refuse_in_use(uri: str, key: str) -> None:
    """Raises UserError where another process writes; waits for a sign of life of one on another machine."""
    where = storage.join(uri, FILE)
    found = _read(where)
    if not found or _ended(found):
        return
    if not _is_here(found):
        _log.info("%s may be in use on %s: waiting for a sign of life", storage.redact(uri), found["host"])
        while time.time() - found["at"] <= SILENT_SECONDS:
            time.sleep(min(1.0, SIGN_SECONDS))
            now = _read(where)
            if now.get("at") != found["at"]:
                found = now
                break
    if found and not _ended(found):
        raise UserError(
            f"{key} {storage.redact(uri)} is being written by another command (process id {found['pid']} on "
            f"{found['host']}): wait until it has ended, or name another {key}"
        )


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


def _sign(where: str, own: str) -> None:
    here = {"host": socket.gethostname(), "namespace": namespace(), "pid": os.getpid()}
    storage.write_json(where, {"id": own, "at": time.time(), **here})


def _keep_signing(where: str, own: str, done: threading.Event) -> None:
    while not done.wait(SIGN_SECONDS):
        with contextlib.suppress(FoodsegError):  # storage is away: the training itself says so
            _sign(where, own)


def _read(where: str) -> dict[str, Any]:
    """Returns what the file holds; {} where there is no such file, or it is not one of ours."""
    try:
        found = json.loads(storage.read_text(where))
    except (MissingFile, ValueError):
        return {}
    kinds = {"id": str, "host": str, "namespace": str, "pid": int, "at": float}
    whole = isinstance(found, dict) and all(isinstance(found.get(name), kind) for name, kind in kinds.items())
    return found if whole else {}
