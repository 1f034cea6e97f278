"""Records on disk: read as they were listed, batch by batch; what is in memory of each."""

import pickle

import numpy as np
import pytest

from foodseg.prepare.record import ImageFile, MaskFile, Record, Unreadable
from foodseg.prepare.record_batches import RecordBatch, RecordBatches


def record(number: int, source: str = "b", split: str = "train", *, labelled: bool = True) -> Record:
    mask = MaskFile(f"m/{number}.png") if labelled else None
    return Record(f"id-{number}", split, source, ImageFile(f"i/{number}.jpg"), mask)


RECORDS = [
    *(record(number) for number in range(40)),
    record(40, "", "test"),
    record(41, "a", "val", labelled=False),
    Record("id-3", "train", "b", Unreadable("torn"), None, ("x.parquet", 0)),
]


def test_records_are_read_as_they_were_listed() -> None:
    with RecordBatches(iter(RECORDS)) as listed:
        assert len(listed) == 43 and list(listed.records()) == RECORDS
        assert [batch.items for batch in listed.batches] == [16, 16, 11]
        assert listed.batches[2].records == RECORDS[32:] and listed.batches[2].key == "000002"
        assert listed.batches[0].records == RECORDS[:16]  # in any order
        assert listed.starts.tolist() == [0, 16, 32]
        assert listed.batch_of(np.array([0, 15, 16, 42])).tolist() == [0, 0, 1, 2]


def test_columns() -> None:
    with RecordBatches(RECORDS) as listed:
        assert listed.ids.to_pylist() == [each.image_id for each in RECORDS] and listed.id_of(42) == "id-3"
        assert listed.splits.tolist() == [0] * 40 + [2, 1, 0]
        assert listed.source_names == ["", "a", "b"]
        assert listed.sources.tolist() == [2] * 40 + [0, 1, 2]
        assert listed.labelled.tolist() == [True] * 41 + [False, False]


def test_a_pickled_batch_holds_its_records_and_no_file() -> None:
    with RecordBatches(RECORDS) as listed:
        data = pickle.dumps(listed.batches[1])
    batch = pickle.loads(data)
    assert isinstance(batch, RecordBatch) and (batch.number, batch.start, batch.items) == (1, 16, 16)
    assert batch.records == RECORDS[16:32] and pickle.loads(pickle.dumps(batch)).records == batch.records
    with pytest.raises(ValueError, match="closed"):
        _ = listed.batches[1].records


def test_no_records() -> None:
    with RecordBatches([]) as listed:
        assert len(listed) == 0 and not listed.batches and listed.ids.to_pylist() == [] and not listed.source_names
