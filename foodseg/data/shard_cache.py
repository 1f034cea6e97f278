"""Copies of shards on this machine (`data.cache`): what the next epoch reads again is not fetched again.

    path = cached_shard("s3://meals/train/shard-00000.parquet", shard, "/scratch/shards")    # None: not kept

A copy is named by the sha256 of its content and is checked against it as it arrives, so that data sets, runs and
versions of a data set can share a folder, and no copy is ever out of date. The processes of a machine fetch a shard
once: the others wait for it. Nothing is removed: a copy may be deleted at any time, even while it is read.

A folder that is full or cannot be written costs the copy alone: the shard is then read where it is.
"""

import contextlib
import fcntl
import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from foodseg import storage
from foodseg.data.shards import Shard
from foodseg.errors import UserError

KEPT_FREE = 0.05  # of the disk: a cache must not be what fills it
_log = logging.getLogger(__name__)
_unwritable: set[str] = set()


def cached_shard(uri: str, shard: Shard, folder: str) -> Path | None:
    """Returns the copy of a shard, which is fetched if it is not there; None: it cannot be kept.

    Raises:
        UserError: the shard is missing, or its content is not what its manifest lists.
        RetryLater: the storage does not answer.
    """
    path = Path(folder, f"{shard.sha256}.parquet")
    if _whole(path, shard):
        return path
    if folder in _unwritable:
        return None
    try:
        with _alone(path.with_suffix(".lock")):
            if not _whole(path, shard):
                _fetch(uri, shard, path)
    except OSError as error:
        _unwritable.add(folder)
        _log.warning(
            "no more shards are kept in data.cache %s (%s): %s and others that are not there are read where they are",
            folder, error.strerror or error, storage.redact(uri),
        )  # fmt: skip
        return None
    return path


def _whole(path: Path, shard: Shard) -> bool:
    with contextlib.suppress(OSError):
        return path.stat().st_size == shard.size
    return False


def _fetch(uri: str, shard: Shard, path: Path) -> None:
    """Copies a shard; it gets its name once it was checked."""
    disk = shutil.disk_usage(path.parent)
    if disk.free - shard.size < KEPT_FREE * disk.total:
        raise OSError(0, f"{disk.free / 2**30:.1f} GiB are free, and {KEPT_FREE:.0%} of the disk are left free")
    part = path.with_suffix(".part")
    try:
        storage.download(uri, part)
        digest = hashlib.sha256()
        with part.open("rb") as copy:
            while piece := copy.read(2**20):
                digest.update(piece)
        if digest.hexdigest() != shard.sha256:
            raise UserError(
                f"{storage.redact(uri)} is not the file that the manifest lists (its sha256 differs): prepare the data "
                "set again with --overwrite"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Within, no other process of this machine fetches the same shard. A killed process lets go of its lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("wb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # whoever waited for it finds the copy
