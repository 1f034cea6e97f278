"""Compares every shard of a prepared data set with `dataset.json`, byte by byte.

    verify_shards("s3://bucket/meals", read_manifest("s3://bucket/meals"))

Readers check the size of a shard, its footer and the checksums of the pages that they read; this reads all of it.
"""

import hashlib
from concurrent.futures import ThreadPoolExecutor, as_completed

from foodseg import storage
from foodseg.data.reader import READERS
from foodseg.data.shards import Manifest, Shard
from foodseg.errors import DataRefused, MissingFile
from foodseg.progress import Progress

CHUNK = 4 * 2**20  # bytes that a thread holds


def verify_shards(uri: str, manifest: Manifest) -> int:
    """Reads all shards, READERS at the same time, and returns their bytes.

    Raises:
        DataRefused: shards are missing or have another size or sha256; the message names each.
        RetryLater: the storage does not answer.
    """
    differ: dict[Shard, str] = {}
    with (
        Progress("verifying shards", len(manifest.shards)) as bar,
        ThreadPoolExecutor(READERS, thread_name_prefix="verify-shards") as pool,
    ):
        looking = {pool.submit(_difference, storage.join(uri, shard.path), shard): shard for shard in manifest.shards}
        try:
            for done in as_completed(looking):
                bar.advance(1)
                if difference := done.result():
                    differ[looking[done]] = difference
        except BaseException:  # Ctrl-C does not wait for the others
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if differ:
        listed = "; ".join(f"{shard.path} {differ[shard]}" for shard in manifest.shards if shard in differ)
        raise DataRefused(
            f"{storage.redact(uri)}: {len(differ)} of {len(manifest.shards)} shards are not those that dataset.json "
            f"lists: {listed}; prepare the data set again with --overwrite"
        )
    return sum(shard.size for shard in manifest.shards)


def _difference(uri: str, shard: Shard) -> str | None:
    """What differs, in words; None if nothing does."""
    digest = hashlib.sha256()
    try:
        with storage.open_input(uri) as stream:
            if stream.size() != shard.size:
                return f"has {stream.size()} bytes instead of {shard.size}"
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except MissingFile:
        return "is missing"
    return None if digest.hexdigest() == shard.sha256 else "has another sha256"
