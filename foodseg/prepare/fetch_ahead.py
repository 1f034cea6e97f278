"""Fetches the files of a few records in threads, each file once, before the audit asks for them.

    for record in fetched_ahead(records): audit_record(record, classes)

Only bytes are fetched ahead: decoded, the masks of a batch of camera images would take a gigabyte.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from foodseg import storage
from foodseg.annotations.coco_mask import CocoMask
from foodseg.cluster.shard_plan import READERS
from foodseg.prepare.record import Record


@runtime_checkable
class OneFile(Protocol):
    """An image or a mask that is one file."""

    uri: str

    def decode(self, data: bytes) -> Any:
        """Returns what `read` returns, of the bytes of the file."""
        ...


@dataclass(frozen=True)
class _Fetched:
    """A file that is being fetched; `read` waits for it, and raises what fetching has raised."""

    file: OneFile
    data: Future[bytes]

    def read(self) -> Any:
        return self.file.decode(self.data.result())


def fetched_ahead(records: Sequence[Record]) -> Iterator[Record]:
    """Yields the records, in order; the files of all are fetched by READERS threads meanwhile."""
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="fetch-ahead")

    def ahead(part: Any) -> Any:
        return _Fetched(part, pool.submit(storage.read_bytes, part.uri)) if isinstance(part, OneFile) else part

    wanted = False
    try:
        found = []
        for record in records:
            image, mask = ahead(record.image), ahead(record.mask)
            if isinstance(mask, CocoMask):  # which may need the size of its image
                mask = replace(mask, image=image)
            found.append(replace(record, image=image, mask=mask))
        yield from found
        wanted = True
    finally:  # where the task fails, nobody waits for the others
        pool.shutdown(cancel_futures=not wanted)
