"""Reads rows of a prepared data set by number, without Ray; used by the stream, validation and evaluation.

reader = RowReader(uri, read_manifest(uri), ["train"])
table = reader.take([5, 3, 3])        # a pyarrow Table of three rows, in this order
"""

import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import cachetools
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foodseg import storage
from foodseg.data.shard_cache import cached_shard
from foodseg.data.shards import SCHEMA, Manifest, Shard
from foodseg.errors import UserError

COLUMNS = ["image_id", "image", "mask", "height", "width", "group_id", "source"]
READERS = 16  # threads: parts of shards that are read at the same time, since most of the time is latency
GROUPS_AT_ONCE = 4  # row groups in a part: bounds what the threads hold of rows that nobody wants, and shards are few
FOOTER_BYTES = 16 * 2**20  # serialized, of the footers that a process keeps; parsed they take a few times as much
T = TypeVar("T")
_log = logging.getLogger(__name__)


class ShardReader:
    """Reads rows of some shards by number; numbers run through the shards.

    Shards of concatenated data sets have their own URI instead of `uri`. Only row groups that hold a wanted row are
    fetched, many at the same time, and a footer once in a process. Safe to use from several threads; cheap to pickle.

    The size of a shard, its footer and the checksums of its pages are checked as they are read; its sha256 is not, see
    `prepare/verify_shards.py`.
    """

    listed_in, mend = "dataset.json", "prepare the data set again with --overwrite"

    def __init__(self, uri: str, shards: Sequence[Shard], schema: pa.Schema, *, cache: str | None = None) -> None:
        """`cache`: folder of this machine for copies of the shards (`shard_cache.py`); None = they are read there."""
        self.uri = uri
        self.shards = list(shards)
        self.shard_rows = [shard.rows for shard in self.shards]
        self._schema = schema
        starts = np.concatenate([[0], np.cumsum([rows for shard in self.shards for rows in shard.row_groups])])
        self._group_starts = starts.astype(np.int64)
        self._groups = [(s, g) for s, shard in enumerate(self.shards) for g in range(len(shard.row_groups))]
        self._cache = cache

    def __len__(self) -> int:
        return int(self._group_starts[-1])

    def take(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str]) -> pa.Table:
        """Returns the rows in the order asked for (repeats allowed).

        Raises:
            UserError: a shard is missing or is not the file that the manifest lists.
            RetryLater: the storage does not answer.
        """
        wanted, back = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        if not len(wanted):
            return pa.Table.from_batches([], schema=pa.schema([]))
        assert wanted[0] >= 0 and wanted[-1] < len(self), (wanted[0], wanted[-1], len(self))
        group_of = np.searchsorted(self._group_starts, wanted, side="right") - 1
        parts = list(_parts(self._groups, np.unique(group_of).tolist()))

        def read(part: list[int]) -> pa.Table:
            """The wanted rows of a part, given by its row groups as they count through all shards."""
            table = self._read(self._groups[part[0]][0], [self._groups[g][1] for g in part], columns)
            # index of a row's group among the row groups that were fetched
            fetched = np.concatenate(
                [[0], np.cumsum([self._group_starts[g + 1] - self._group_starts[g] for g in part])]
            )
            here = np.isin(group_of, part)
            group = np.searchsorted(part, group_of[here])
            return table.take(fetched[group] + wanted[here] - self._group_starts[group_of[here]])

        return pa.concat_tables(_side_by_side(read, parts)).take(back)

    def by_row_group(self, rows: Sequence[int]) -> list[list[int]]:
        """Cuts row numbers, in their order, where the row group changes: what is read at once, each fetched once."""
        groups = np.searchsorted(self._group_starts, np.asarray(rows, np.int64), side="right")
        borders = (np.flatnonzero(np.diff(groups)) + 1).tolist()
        return [list(rows[start:stop]) for start, stop in itertools.pairwise([0, *borders, len(rows)]) if start < stop]

    def column(self, name: str) -> pa.ChunkedArray:
        """Returns one column of every row, without fetching the others."""
        return self.columns([name]).column(name)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Returns these columns of every row, without fetching the others."""

        def read(shard: int) -> pa.Table:
            return self._read(shard, list(range(len(self.shards[shard].row_groups))), names)

        return pa.concat_tables(_side_by_side(read, range(len(self.shards))))

    def _read(self, shard: int, row_groups: list[int], columns: Sequence[str]) -> pa.Table:
        info = self.shards[shard]
        uri = storage.join(info.uri or self.uri, info.path)
        storage.expect(uri)  # the manifest was read there, perhaps by another process
        with self._open(uri, info) as source:
            if source.size() != info.size:
                raise self._damaged(uri, f"has {source.size()} bytes, {self.listed_in} lists {info.size}")
            try:
                # pre_buffer: neighbouring columns are fetched in one request
                with pq.ParquetFile(
                    source, metadata=_footer(uri, info, self, source), pre_buffer=True, page_checksum_verification=True
                ) as file:
                    return _with_data_set(file.read_row_groups(row_groups, columns=list(columns)), info)
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                # damage comes as any of these; errors of a local disk have a number, those of S3 are of other types
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                detail = " ".join(str(error).split())
                raise self._damaged(uri, f"is not a readable Parquet file ({detail})") from None

    def _open(self, uri: str, shard: Shard) -> pa.NativeFile:
        copy = None if self._cache is None else cached_shard(uri, shard, self._cache)
        if copy is not None:
            with contextlib.suppress(FileNotFoundError):  # it was removed just now
                return pa.OSFile(str(copy), "rb")
        return storage.open_input(uri)

    def checked(self, uri: str, shard: Shard, footer: pq.FileMetaData) -> pq.FileMetaData:
        """Returns the footer of a shard; UserError: it is not that of the shard that is listed."""
        found = tuple(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
        if found != shard.row_groups or footer.schema.to_arrow_schema() != self._schema:
            raise self._damaged(uri, f"holds {footer.num_rows} rows, {self.listed_in} lists {shard.rows} otherwise")
        return footer

    def _damaged(self, uri: str, what: str) -> UserError:
        return UserError(f"{storage.redact(uri)} {what}: {self.mend}")


class KeptRows(Protocol):
    """What is kept beside the data set for each image."""

    def of_images(self, image_ids: Sequence[str]) -> pa.Table:
        """Returns a row for each of these images, in their order."""
        ...


class RowReader(ShardReader):
    """Reads rows of the shards of `splits`, in their order in the manifest.

    Attributes:
        labelled: number of rows with a mask.
        soft_labels: reads the soft labels of the same rows; None in a training without a teacher.
        kept_masks: reads the masks of Segment Anything of the same images; None where they are not learned from.
    """

    def __init__(self, uri: str, manifest: Manifest, splits: Sequence[str], *, cache: str | None = None) -> None:
        super().__init__(uri, manifest.split_shards(splits), SCHEMA, cache=cache)
        self.labelled = len(self) - sum(
            manifest.counts[split].unlabelled for split in set(splits) & manifest.counts.keys()
        )
        self.soft_labels: ShardReader | None = None
        self.kept_masks: KeptRows | None = None

    def take(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] = COLUMNS) -> pa.Table:
        """As `ShardReader.take`; without `columns` those that make a training image."""
        return super().take(rows, columns)


@cachetools.cached(
    cachetools.LRUCache(FOOTER_BYTES, lambda footer: footer.serialized_size),
    key=lambda uri, shard, reader, source: (uri, shard.sha256),
    condition=threading.Condition(),  # of several threads the first one fetches it, and the others wait
)
def _footer(uri: str, shard: Shard, reader: ShardReader, source: pa.NativeFile) -> pq.FileMetaData:
    """Fetches the footer of a shard, once in a process."""
    return reader.checked(uri, shard, pq.read_metadata(source))


def _parts(groups: Sequence[tuple[int, int]], wanted: Iterable[int]) -> Iterator[list[int]]:
    """Cuts row groups, given as they count through all shards, into parts of one shard each."""
    for _, of_shard in itertools.groupby(wanted, key=lambda group: groups[group][0]):
        while part := list(itertools.islice(of_shard, GROUPS_AT_ONCE)):
            yield part


def _side_by_side(read: Callable[[T], pa.Table], parts: Sequence[T]) -> list[pa.Table]:
    """Reads the parts at the same time; returns their tables in the order of `parts`, or raises its first error."""
    if len(parts) <= 1:
        return [read(part) for part in parts]
    # by default Arrow fetches no more than 8 ranges at a time in the whole process
    pa.set_io_thread_count(max(READERS, pa.io_thread_count()))
    with ThreadPoolExecutor(min(READERS, len(parts)), thread_name_prefix="read-shards") as pool:
        return list(pool.map(read, parts))


def _with_data_set(table: pa.Table, shard: Shard) -> pa.Table:
    """Prefixes sources with the name of their concatenated data set: equal names may differ in what they annotate."""
    if shard.data_set is None or "source" not in table.column_names:
        return table
    sources = pc.binary_join_element_wise(shard.data_set, table.column("source"), "/")
    return table.set_column(table.column_names.index("source"), "source", sources)
