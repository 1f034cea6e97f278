"""Files are fetched at the same time, each once; what fetching raises comes where the file is read."""

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from foodseg import storage
from foodseg.annotations.coco_mask import CocoMask
from foodseg.data.image_io import encode_mask
from foodseg.errors import MissingFile, RetryLater
from foodseg.prepare.fetch_ahead import fetched_ahead
from foodseg.prepare.formats.huggingface import ParquetCell
from foodseg.prepare.formats.uecfoodpix import MaskRedChannel
from foodseg.prepare.record import ImageFile, MaskFile, Record, Unreadable

IDS = np.array([[0, 1], [2, 1]], np.uint8)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counts, read = Counter[str](), storage.read_bytes

    def counted(uri: str) -> bytes:
        counts[uri.rpartition("/")[2]] += 1
        return read(uri)

    monkeypatch.setattr(storage, "read_bytes", counted)
    return counts


def test_each_file_is_fetched_once_and_read_as_without(tmp_path: Path, reads: Counter[str]) -> None:
    (tmp_path / "a.jpg").write_bytes(b"image")
    (tmp_path / "a.png").write_bytes(encode_mask(IDS))
    image = ImageFile(str(tmp_path / "a.jpg"))
    coco = CocoMask(None, None, (), image)
    records = [
        Record("a", "train", "s", image, MaskFile(str(tmp_path / "a.png"))),
        Record("b", "train", "s", ImageFile(str(tmp_path / "b.jpg")), None),
        Record("c", "train", "s", Unreadable("torn"), MaskRedChannel(str(tmp_path / "a.png"))),
        Record("d", "train", "s", ParquetCell("x.parquet", 0, 0, "image"), coco),
    ]
    a, b, c, d = fetched_ahead(records)
    assert a.image.read() == a.image.read() == b"image" and a.mask is not None
    np.testing.assert_array_equal(a.mask.read(), IDS)
    with pytest.raises(MissingFile):
        b.image.read()
    assert (b.image_id, b.mask, c.image, d.image) == ("b", None, Unreadable("torn"), records[3].image)
    assert reads == {"a.jpg": 1, "a.png": 2, "b.jpg": 1}  # two masks of one file


def test_a_mask_that_asks_for_its_image_takes_the_one_that_is_fetched(tmp_path: Path, reads: Counter[str]) -> None:
    (tmp_path / "a.png").write_bytes(encode_mask(IDS))
    image = ImageFile(str(tmp_path / "a.png"))
    (record,) = fetched_ahead([Record("a", "train", "s", image, CocoMask(None, None, (), image))])
    assert record.mask is not None and record.mask.read().shape == IDS.shape
    assert record.image.read() == encode_mask(IDS) and reads == {"a.png": 1}


def test_sixteen_are_under_way_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(16, timeout=20)
    monkeypatch.setattr(storage, "read_bytes", lambda uri: str(together.wait()).encode())
    records = [Record(str(n), "train", "s", ImageFile(str(n)), None) for n in range(16)]
    assert sorted(int(record.image.read()) for record in fetched_ahead(records)) == list(range(16))


def test_a_storage_that_does_not_answer_ends_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(uri: str) -> bytes:
        raise RetryLater("storage is away")

    monkeypatch.setattr(storage, "read_bytes", away)
    with pytest.raises(RetryLater):
        for record in fetched_ahead([Record("a", "train", "s", ImageFile("a"), None)]):
            record.image.read()
