"""Writes a Parquet file of any number of rows, of which few are in memory at a time.

with TableWriter("s3://bucket/findings.parquet", FINDINGS_SCHEMA) as table:
    table.add({"image_id": "a", ...})
"""

import tempfile
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from foodseg import storage

_ROWS = 10_000  # of a row group


class TableWriter:
    """Collects rows in a temporary file; it is at `uri` when the `with` block has ended without an error."""

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self._uri, self._schema, self._rows = uri, schema, list[dict[str, Any]]()
        self._folder = tempfile.TemporaryDirectory(prefix="foodseg-table-")
        self._path = Path(self._folder.name, "rows.parquet")
        self._file = pq.ParquetWriter(self._path, schema)

    def __enter__(self) -> Self:
        return self

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row, a dict of the schema."""
        self._rows.append(row)
        if len(self._rows) == _ROWS:
            self._flush()

    def __exit__(self, raised: type[BaseException] | None, *_: object) -> None:
        with self._folder:
            if raised is None:
                self._flush()
            self._file.close()
            if raised is None:
                storage.upload(self._path, self._uri)

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()
