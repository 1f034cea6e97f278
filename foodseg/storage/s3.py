"""The S3 half of `storage`: what is asked of a server, as functions of one bucket and key.

Small objects are one PUT; large ones are uploaded in parts, which are given up when anything fails, so that the old
object stays. A process that is killed may leave parts that nobody sees; a rule of the bucket removes those
(AbortIncompleteMultipartUpload).
"""

import io
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, BinaryIO

from boto3.s3.transfer import TransferConfig
from botocore import exceptions

from foodseg.errors import RetryLater
from foodseg.storage.s3_client import MISSING, Refused, Target, code_of, with_retries
from foodseg.storage.uris import redact

PART = 8 << 20  # bytes: of an upload, and of a read that is split
PARALLEL = 4
WHOLE = 4 * PART  # up to here an object is one PUT
TAIL = 64 << 10  # the footer of a Parquet file, most often
DELETED_AT_ONCE = 1000  # what S3 takes in one request


class Changed(RetryLater):
    """An object was replaced while it was read."""


def require_key(target: Target) -> None:
    """Refuses a bucket where a file is meant."""
    if not target.key:
        raise Refused("that is a bucket or a folder; name a file in it")


def size(target: Target) -> int | None:
    """Bytes of an object; None if there is none, though keys may be below it."""
    try:
        return int(target.client.head_object(**target.where)["ContentLength"])
    except exceptions.ClientError as error:
        if code_of(error) not in MISSING:
            raise
        return None


def exists(target: Target) -> bool:
    """Whether there is an object, a key below it, or for the empty key the bucket."""
    if target.key and size(target) is not None:
        return True
    try:
        if not target.key:
            target.client.head_bucket(Bucket=target.bucket)
            return True
        page = target.client.list_objects_v2(Bucket=target.bucket, Prefix=_prefix(target), MaxKeys=1, **target.extra)
    except exceptions.ClientError as error:
        if code_of(error) not in ("NoSuchBucket", *MISSING):
            raise
        return False
    return bool(page.get("Contents"))


def entries(target: Target, *, recursive: bool) -> dict[str, int | None]:
    """Sizes by path of what is in a folder; None for a folder in it, of which only a flat listing tells.

    Marks of folders, which some programs write (keys with a slash at the end), are left out.
    """
    prefix, found = _prefix(target), dict[str, int | None]()
    for page in _pages(target, prefix, **({} if recursive else {"Delimiter": "/"})):
        found |= {entry["Key"][len(prefix) :]: entry["Size"] for entry in page.get("Contents", ())}
        found |= {entry["Prefix"][len(prefix) : -1]: None for entry in page.get("CommonPrefixes", ())}
    return {path: size for path, size in found.items() if path and not path.endswith("/")}


def _prefix(target: Target) -> str:
    return f"{target.key}/" if target.key else ""


def _pages(target: Target, prefix: str, **more: str) -> Iterator[dict[str, Any]]:
    paginator = target.client.get_paginator("list_objects_v2")
    yield from paginator.paginate(Bucket=target.bucket, Prefix=prefix, **more, **target.extra)


def get(target: Target) -> tuple[bytes, str]:
    """The whole object and its ETag, from one answer."""
    require_key(target)
    answer = target.client.get_object(**target.where)
    return answer["Body"].read(), answer["ETag"]


def put(target: Target, data: bytes) -> None:
    """Writes one object."""
    require_key(target)
    if len(data) <= WHOLE:
        target.client.put_object(Body=data, **target.where)
    else:
        send(target, io.BytesIO(data))


def send(target: Target, source: BinaryIO) -> None:
    """Writes one object from a stream: all of it or nothing."""
    require_key(target)
    config = TransferConfig(
        multipart_threshold=WHOLE,
        multipart_chunksize=PART,
        max_concurrency=PARALLEL,
        preferred_transfer_client="classic",
    )
    target.client.upload_fileobj(source, target.bucket, target.key, ExtraArgs=dict(target.extra), Config=config)


def delete(target: Target) -> None:
    """Removes an object and all below its key."""
    if not target.key:
        raise Refused("that is a whole bucket; name a key in it")
    below = [entry["Key"] for page in _pages(target, _prefix(target)) for entry in page.get("Contents", ())]
    target.client.delete_object(**target.where)
    # some servers (SeaweedFS) have real folders, which outlive what was in them; elsewhere nobody has these keys
    folders = {key[: at + 1] for key in below for at in range(len(target.key), len(key)) if key[at] == "/"}
    below += sorted(folders - set(below), key=len, reverse=True)
    for start in range(0, len(below), DELETED_AT_ONCE):
        keys = [{"Key": key} for key in below[start : start + DELETED_AT_ONCE]]
        answer = target.client.delete_objects(
            Bucket=target.bucket, Delete={"Objects": keys, "Quiet": True}, **target.extra
        )
        for error in answer.get("Errors", ()):
            raise exceptions.ClientError({"Error": error, "ResponseMetadata": {}}, "DeleteObjects")


class Snapshot:
    """One object as it was when opened: every read is of that version. Safe to use from several threads.

    The first request brings its beginning or, with `tail`, its end too, so that a small file and the footer of a
    Parquet file need no other one. A longer read is made of several requests at a time.
    """

    def __init__(self, uri: str, *, tail: bool) -> None:
        """UserError: missing or not allowed. RetryLater: no answer."""
        self._uri = uri
        wanted = f"bytes=-{TAIL}" if tail else f"bytes=0-{PART - 1}"
        self.size, self._etag, self._kept = with_retries(uri, "read", lambda target: _open(target, wanted))
        self._kept_from = self.size - len(self._kept) if tail else 0

    def read(self, offset: int, count: int) -> bytes:
        """Bytes offset to offset + count, fewer at the end. Changed: it has been replaced. RetryLater."""
        count = max(0, min(count, self.size - offset))
        return self._range(offset, count) if count <= PART else b"".join(self.pieces(offset, count))

    def pieces(self, offset: int, count: int) -> Iterator[bytes]:
        """The same, in pieces, some of them read ahead."""
        pending: deque[Future[bytes]] = deque()
        try:
            for start in range(offset, offset + count, PART):
                pending.append(_pool(os.getpid()).submit(self._range, start, min(PART, offset + count - start)))
                if len(pending) > PARALLEL:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()

    def _range(self, offset: int, count: int) -> bytes:
        inside = offset - self._kept_from
        if inside >= 0 and inside + count <= len(self._kept):
            return self._kept[inside : inside + count]

        def get_range(target: Target) -> bytes:
            try:
                answer = target.client.get_object(
                    Range=f"bytes={offset}-{offset + count - 1}", IfMatch=self._etag, **target.where
                )
            except exceptions.ClientError as error:
                if code_of(error) not in ("PreconditionFailed", "412"):
                    raise
                again = "it has been replaced while it was read; run the same command again"
                raise Changed(f"cannot read {redact(self._uri)}: {again}") from None
            return bytes(answer["Body"].read())

        return with_retries(self._uri, "read", get_range)


def _open(target: Target, wanted: str) -> tuple[int, str, bytes]:
    """Size, ETag and the wanted bytes."""
    require_key(target)
    try:
        answer = target.client.get_object(Range=wanted, **target.where)
    except exceptions.ClientError as error:
        if code_of(error) not in ("InvalidRange", "416"):
            raise
        return 0, "", b""  # an empty object has no range
    data = answer["Body"].read()
    total = answer.get("ContentRange", "").rpartition("/")[2]
    return (int(total) if total.isdigit() else len(data)), answer["ETag"], data


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Of this process: a fork has none of its parent's threads."""
    return ThreadPoolExecutor(2 * PARALLEL, thread_name_prefix="foodseg-s3")


class RandomAccessFile(io.RawIOBase):
    """A snapshot as a file."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._snapshot, self._position = Snapshot(uri, tail=True), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._snapshot.size)[whence]
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        data = self._snapshot.read(self._position, self._snapshot.size if count is None or count < 0 else count)
        self._position += len(data)
        return data
