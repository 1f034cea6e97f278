"""Writes one shard of what the audit's tasks have left on storage: no file of the source is read again.

written = Written.model_validate_json(write_part(part, dst, audit, content, resolution, classes))
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.read_ahead import read_ahead
from foodseg.data.shards import Shard, SplitCounts, write_shard
from foodseg.errors import RetryLater
from foodseg.prepare.ambiguities import Resolution
from foodseg.prepare.audit import RecordFacts
from foodseg.prepare.audit_rows import content_name, decode_audit
from foodseg.prepare.prepared_rows import RowCounts, shard_row


@dataclass(frozen=True, eq=False)
class Part:
    """The n rows of one shard; `path` of its file below the data set's URI.

    Attributes:
        keys: of the audit's tasks that have rows here.
        batches, rows: (n,) ascending, of each row the place of its task in `keys`, and its row there.
        group_ids: n near-duplicate groups; null = the row's own id.
        ahead: how many batches of the audit are in memory at a time.
    """

    split: str
    path: str
    keys: tuple[str, ...]
    batches: np.ndarray
    rows: np.ndarray
    group_ids: pa.Array
    ahead: int


class Written(BaseModel):
    """A shard that is written, and what it counts; as JSON it is the result of a task."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shard: Shard
    counts: SplitCounts


def write_part(part: Part, dst: str, audit: str, content: str, resolution: Resolution, classes: ClassTable) -> bytes:
    """Writes the shard; returns a `Written`.

    Args:
        audit, content: folders of what the audit's tasks have left.

    Raises:
        RetryLater: a file of these is damaged, and deleted: the next command makes it again.
    """
    single_threaded_opencv()
    counts = RowCounts(len(classes))

    def rows() -> Iterator[dict[str, Any]]:
        group_ids = iter(part.group_ids.to_pylist())
        for facts in _facts(part, audit, content, classes):
            resolved = resolution.resolved(facts)
            assert isinstance(resolved, RecordFacts), "it has passed"
            counts.add(resolved)
            group_id = next(group_ids)
            yield shard_row(resolved, resolved.record.image_id if group_id is None else group_id)

    shard = write_shard(dst, part.path, part.split, rows())
    return Written(shard=shard, counts=counts.counts).model_dump_json().encode()


def read_written(part: Part, data: bytes) -> Written:
    """Returns what `write_part` has written; ValueError where it is about another shard."""
    written = Written.model_validate_json(data)
    if (written.shard.path, written.shard.rows) != (part.path, len(part.rows)):
        raise ValueError(f"it is about {written.shard.path} of {written.shard.rows} rows")
    return written


def _facts(part: Part, audit: str, content: str, classes: ClassTable) -> Iterator[Any]:
    def read(number: int) -> Sequence[Any]:
        where = storage.join(audit, part.keys[number])
        data = storage.read_bytes(where)
        try:
            images = storage.read_bytes(storage.join(content, content_name(data)))
            audited = decode_audit(data, classes, images)
        except ValueError as error:
            storage.delete(where)
            raise RetryLater(f"{storage.redact(where)} is damaged ({error}): prepare again") from None
        return [audited[row] for row in part.rows[part.batches == number]]

    for own in read_ahead(read, range(len(part.keys)), part.ahead):
        yield from own
