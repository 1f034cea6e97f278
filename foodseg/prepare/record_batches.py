"""The records of a listing on the disk of this machine, in batches of one task each; in memory a few columns of them.

    with RecordBatches(listing.records) as listed:
        for batch in listed.batches: ...          # a reference, read from the file where it is used or pickled

A record in memory takes about 1 kB, and of COCO its polygons, too; in columns it takes some 30 bytes and its id. The
file has no name, and is gone with this process.
"""

import os
import pickle
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
import pyarrow as pa

from foodseg.prepare.audit import audit_batches
from foodseg.prepare.formats.layout import SPLITS
from foodseg.prepare.record import Record

_FAST = 1  # zlib level: texts of a batch repeat their folders
_IDS = 65_536  # ids that are collected before they become an array


class RecordBatch:
    """Consecutive records, those of one task. Pickled, it holds its records; otherwise it reads them when asked.

    Attributes:
        number: of the batch. start: number of its first record. items: how many records it has.
    """

    __slots__ = ("_listed", "_records", "items", "number", "start")

    def __init__(
        self, number: int, start: int, items: int, listed: "RecordBatches | None", records: list[Record] | None = None
    ) -> None:
        self.number, self.start, self.items, self._listed, self._records = number, start, items, listed, records

    @property
    def key(self) -> str:
        """The name of its results."""
        return f"{self.number:06d}"

    @property
    def records(self) -> list[Record]:
        """The records, in the order of the listing."""
        if self._listed is not None:
            return self._listed.read(self.number)
        assert self._records is not None
        return self._records

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordBatch, (self.number, self.start, self.items, None, self.records)


class RecordBatches:
    """See the module. N records; a context manager, since it holds a file.

    Attributes:
        batches: of one task each, in order. starts: int64, number of the first record of each.
        ids: image id of each record.
        splits: (N,) int8, place of each record's split in SPLITS.
        sources: (N,) int32, place of each record's source in `source_names`, which are sorted.
        labelled: (N,) bool, False where there is no mask.
    """

    def __init__(self, records: Iterable[Record]) -> None:
        self._file = tempfile.TemporaryFile(prefix="foodseg-records-")  # noqa: SIM115 (closed by __exit__)
        self._ends = array("q")
        self.batches: list[RecordBatch] = []
        splits, sources, labelled = array("b"), array("i"), array("b")
        codes: dict[str, int] = {}
        chunks: list[pa.Array] = []
        ids: list[str] = []
        end = 0
        for own in audit_batches(records):
            self.batches.append(RecordBatch(len(self.batches), len(splits), len(own), self))
            packed = zlib.compress(pickle.dumps(own, pickle.HIGHEST_PROTOCOL), _FAST)
            end += self._file.write(packed)
            self._ends.append(end)
            for record in own:
                splits.append(SPLITS.index(record.split))
                sources.append(codes.setdefault(record.source, len(codes)))
                labelled.append(record.mask is not None)
                ids.append(record.image_id)
            if len(ids) >= _IDS:
                chunks.append(pa.array(ids, pa.string()))
                ids.clear()
        self._file.flush()
        self.starts = np.array([batch.start for batch in self.batches], np.int64)
        self.ids: pa.ChunkedArray = pa.chunked_array([*chunks, pa.array(ids, pa.string())], pa.string())
        self.splits, self.labelled = np.frombuffer(splits, np.int8), np.frombuffer(labelled, np.bool_)
        self.source_names = sorted(codes)
        places = np.empty(len(codes), np.int32)
        places[[codes[name] for name in self.source_names]] = np.arange(len(codes))
        self.sources = places[np.frombuffer(sources, np.int32)]

    def __len__(self) -> int:
        return len(self.splits)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def read(self, number: int) -> list[Record]:
        """Reads the records of a batch; safe to use from several threads."""
        start = self._ends[number - 1] if number else 0
        packed = os.pread(self._file.fileno(), self._ends[number] - start, start)
        records: list[Record] = pickle.loads(zlib.decompress(packed))  # this process wrote it
        return records

    def records(self) -> Iterator[Record]:
        """Yields all records, in the order of the listing."""
        for batch in self.batches:
            yield from batch.records

    def batch_of(self, rows: np.ndarray) -> np.ndarray:
        """Returns (n,) the number of the batch of each of n records."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def id_of(self, row: int) -> str:
        """Returns the image id of a record."""
        return str(self.ids[row].as_py())
