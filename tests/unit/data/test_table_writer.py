"""Rows become one file, whatever their number; a failed block leaves none."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foodseg.data import table_writer
from foodseg.data.table_writer import TableWriter

SCHEMA = pa.schema([("id", pa.string()), ("other", pa.string())])


@pytest.mark.parametrize("rows", [0, 1, 3, 4])
def test_all_rows_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(table_writer, "_ROWS", 2)
    path = tmp_path / "below" / "rows.parquet"
    with TableWriter(str(path), SCHEMA) as table:
        for number in range(rows):
            table.add({"id": str(number), "other": None})
    found = pq.read_table(path)
    assert found.schema.equals(SCHEMA) and found.column("id").to_pylist() == [str(n) for n in range(rows)]


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TableWriter(str(tmp_path / "rows.parquet"), SCHEMA) as table:
        table.add({"id": "a", "other": None})
        raise RuntimeError
    assert not list(tmp_path.iterdir())
