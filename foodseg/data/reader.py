"""Reads rows of a prepared data set by number, without Ray; used by the stream, validation and evaluation.

reader = RowReader(uri, read_manifest(uri), ["train"])
table = reader.take([5, 3, 3])        # a pyarrow Table of three rows, in this order
"""

import logging
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foodseg import storage
from foodseg.config.data import DataConfig
from foodseg.data.sampler import TrainingOrder, repeat_factors
from foodseg.data.shards import SCHEMA, Manifest, Shard
from foodseg.errors import UserError

COLUMNS = ["image_id", "image", "mask", "height", "width", "group_id", "source"]
_log = logging.getLogger(__name__)


class RowReader:
    """Reads rows by number; numbers run through the shards of `splits`, in their order in the manifest.

    Shards of concatenated data sets have their own URI instead of `uri`. `labelled`: number of rows with a mask.

    Only row groups that hold a wanted row are fetched. Safe to use from several threads; cheap to pickle.
    """

    def __init__(self, uri: str, manifest: Manifest, splits: Sequence[str]) -> None:
        self.uri = uri
        self.shards = manifest.split_shards(splits)
        self.shard_rows = [shard.rows for shard in self.shards]
        self.labelled = sum(self.shard_rows) - sum(
            manifest.counts[split].unlabelled for split in set(splits) & manifest.counts.keys()
        )
        starts = np.concatenate([[0], np.cumsum([rows for shard in self.shards for rows in shard.row_groups])])
        self._group_starts = starts.astype(np.int64)
        self._groups = [(s, g) for s, shard in enumerate(self.shards) for g in range(len(shard.row_groups))]

    def __len__(self) -> int:
        return int(self._group_starts[-1])

    def take(self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] = COLUMNS) -> pa.Table:
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
        tables = []
        for shard in sorted({self._groups[g][0] for g in np.unique(group_of)}):
            groups = [g for g in np.unique(group_of) if self._groups[g][0] == shard]
            table = self._read(shard, [self._groups[g][1] for g in groups], columns)
            # index of a row's group among the row groups that were fetched from this shard
            fetched = np.concatenate(
                [[0], np.cumsum([self._group_starts[g + 1] - self._group_starts[g] for g in groups])]
            )
            here = np.isin(group_of, groups)
            group = np.searchsorted(groups, group_of[here])
            tables.append(table.take(fetched[group] + wanted[here] - self._group_starts[group_of[here]]))
        return pa.concat_tables(tables).take(back)

    def column(self, name: str) -> pa.ChunkedArray:
        """Returns one column of every row, without fetching the others."""
        tables = [self._read(s, list(range(len(shard.row_groups))), [name]) for s, shard in enumerate(self.shards)]
        return pa.concat_tables(tables).column(name)

    def _read(self, shard: int, row_groups: list[int], columns: Sequence[str]) -> pa.Table:
        info = self.shards[shard]
        uri = storage.join(info.uri or self.uri, info.path)
        storage.expect(uri)  # the manifest was read there, perhaps by another process
        with storage.open_input(uri) as source:
            try:
                with pq.ParquetFile(source, pre_buffer=True) as file:
                    meta = file.metadata
                    found = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
                    if found != list(info.row_groups) or file.schema_arrow.names != SCHEMA.names:
                        raise _damaged(uri, f"holds {meta.num_rows} rows, dataset.json lists {info.rows} otherwise")
                    return _with_data_set(file.read_row_groups(row_groups, columns=list(columns)), info)
            except (pa.ArrowInvalid, OSError) as error:
                # a damaged footer is an OSError too; errors of the storage are already UserError or RetryLater
                if isinstance(error, OSError) and "thrift" not in str(error):
                    raise
                detail = " ".join(str(error).split())
                raise _damaged(uri, f"is not a readable Parquet file ({detail})") from None


def _with_data_set(table: pa.Table, shard: Shard) -> pa.Table:
    """Prefixes sources with the name of their concatenated data set: equal names may differ in what they annotate."""
    if shard.data_set is None or "source" not in table.column_names:
        return table
    sources = pc.binary_join_element_wise(shard.data_set, table.column("source"), "/")
    return table.set_column(table.column_names.index("source"), "source", sources)


def _damaged(uri: str, what: str) -> UserError:
    return UserError(f"{storage.redact(uri)} {what}: prepare the data set again with --overwrite")


def training_order(
    reader: RowReader, data: DataConfig, seed: int, global_batch: int, *, paste: float = 0.0
) -> TrainingOrder:
    """Builds the order of a run over the reader's rows; `paste` is the share of positions with a paste partner.

    The expected draws of a row per epoch are the weight of its data set times its repeat factor.

    Raises:
        UserError: the weights of the data sets leave less than one row.
    """
    repeats = _weights(reader, data)
    needs_ingredients = data.repeat_threshold > 0 or paste > 0
    ingredients = reader.column("ingredients").to_pylist() if needs_ingredients else []
    if data.repeat_threshold > 0:
        factors = repeat_factors(ingredients, reader.labelled, data.repeat_threshold, data.repeat_cap)
        repeats = factors if repeats is None else repeats * factors
    if repeats is not None and round(float(repeats.sum())) < 1:
        raise UserError(
            f"with the weights of data.uris an epoch draws {repeats.sum():.2g} images, less than one: raise the weights"
        )
    drawn = len(reader) if repeats is None else round(float(repeats.sum()))
    if drawn < global_batch:
        _log.warning(
            "an epoch of %s has %d image%s, fewer than train.global_batch = %d: an update takes an image several times",
            list(data.train_splits), drawn, "" if drawn == 1 else "s", global_batch,
        )  # fmt: skip
    if paste == 0:
        return TrainingOrder(reader.shard_rows, seed, global_batch, repeats)
    sources = reader.column("source").dictionary_encode().unify_dictionaries()
    codes = np.concatenate([part.indices.to_numpy() for part in sources.chunks])
    pastable = np.array([bool(ids) for ids in ingredients])
    return TrainingOrder(reader.shard_rows, seed, global_batch, repeats, paste=paste, sources=codes, pastable=pastable)


def _weights(reader: RowReader, data: DataConfig) -> np.ndarray | None:
    """Returns (N,) float64, the weight of each row's data set; None where all are 1."""
    weights = {entry.uri: entry.weight for entry in data.uris}
    if all(weight == 1 for weight in weights.values()):
        return None
    return np.repeat([weights[shard.uri or ""] for shard in reader.shards], reader.shard_rows)
