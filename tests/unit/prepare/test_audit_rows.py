"""What an audit found is stored and read back exactly, and nothing else is taken for it."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from foodseg.classes import ClassTable
from foodseg.demo.synthetic import write_meals
from foodseg.prepare.audit import RecordFacts, Refusal, audit_record
from foodseg.prepare.audit_rows import content_name, content_of, decode_audit, encode_audit, read_thumbnails
from foodseg.prepare.checked import CheckedImage, CheckedMask
from foodseg.prepare.findings import Finding
from foodseg.prepare.formats.detect import list_source
from foodseg.prepare.record import ImageFile, Record

CLASSES = ClassTable(("background", "rice", "egg"))
SOURCE = Record("id", "train", "source", ImageFile("/there/a.jpg"), None)
RECORD = replace(SOURCE, image=CheckedImage(b"an image"), mask=CheckedMask(b"a mask"))
REPEATED = Finding("repeated_image", "the same file as 'b' of train", "b", "train", 1 / 3)
FACTS = RecordFacts(
    record=RECORD,
    findings=(Finding("grey", "the image has no colour"), REPEATED),
    size=2**40,
    height=3,
    width=2**31 - 1,
    mask_turn=6,
    class_pixels=np.array([1, 0, 2**31 - 1], np.int32),
    thumbnail=np.arange(768).astype(np.uint8),
    digest=bytes(range(32)),
    ignored_pixels=2**40,
    orientation=8,
    stored_evidence=-1 / 3,
)
PLAIN = replace(FACTS, record=replace(RECORD, mask=None), findings=(), stored_evidence=None)
IGNORED = Refusal(RECORD, (Finding("all_ignored", "every pixel \u00e9 is ignored"),), FACTS)
REFUSED = Refusal(SOURCE, (Finding("unreadable", "torn \n and quoted '\""), REPEATED))


def plain(value: Any) -> Any:
    """What can be compared, with the types of arrays."""
    if isinstance(value, RecordFacts | Refusal):
        parts = {name: plain(own) for name, own in vars(value).items()}
        if isinstance(value, Refusal):  # the location of what is refused is not stored
            parts["record"] = (value.record.image_id, value.record.split, value.record.source)
        return type(value).__name__, parts
    return (str(value.dtype), value.shape, value.tolist()) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(
    "audited", [[FACTS], [PLAIN], [IGNORED], [REFUSED], [REFUSED, FACTS, IGNORED, PLAIN, REFUSED], []]
)
def test_rows_round_trip(audited: list[RecordFacts | Refusal]) -> None:
    data = encode_audit(audited, "000001-abc")
    back = decode_audit(data, CLASSES, content_of(audited))
    assert list(map(plain, back)) == list(map(plain, audited)) and content_name(data) == "000001-abc"


def test_thumbnails_are_read_by_row_and_are_all_that_is_left_out() -> None:
    other = replace(PLAIN, thumbnail=np.full(768, 7, np.uint8))
    data = encode_audit([REFUSED, FACTS, IGNORED, other])
    assert read_thumbnails(data, (3, 1)).tolist() == [other.thumbnail.tolist(), FACTS.thumbnail.tolist()]
    assert read_thumbnails(data, ()).shape == (0, 768)


def test_without_content_images_masks_and_thumbnails_are_left_out() -> None:
    nothing = np.empty(0, np.uint8)
    facts, unlabelled, refused = decode_audit(encode_audit([FACTS, PLAIN, IGNORED]), CLASSES)
    empty = replace(RECORD, image=CheckedImage(b""), mask=CheckedMask(b""))
    assert plain(facts) == plain(replace(FACTS, record=empty, thumbnail=nothing))
    assert isinstance(unlabelled, RecordFacts) and unlabelled.record.mask is None
    assert isinstance(refused, Refusal) and plain(refused.facts) == plain(facts)


def test_content_that_is_damaged_or_of_others_is_refused() -> None:
    data, content = encode_audit([FACTS, PLAIN]), content_of([FACTS, PLAIN])
    assert content == b"an imagea maskan image"
    for other in (content[:-1], content[1:], b"", content.replace(b"mask", b"mass")):
        with pytest.raises(ValueError, match="the image and the mask of 'id' are damaged"):
            decode_audit(data, CLASSES, other)


def test_every_field_is_stored() -> None:
    """A field that is added has to be in the schema: each of these is another one than its default."""
    defaults = {"ignored_pixels": 0, "orientation": 1, "stored_evidence": None, "ignored_is_food": False}
    unusual = replace(FACTS, ignored_is_food=True)
    assert all(getattr(unusual, name) != default for name, default in defaults.items())
    (back,) = decode_audit(encode_audit([unusual]), CLASSES, content_of([unusual]))
    assert plain(back) == plain(unusual)


def test_a_real_audit_round_trips(tmp_path: Path) -> None:
    write_meals(tmp_path, train=3, test=1, seed=1, longest_side=64)
    (tmp_path / "images" / "synthetic__0001.jpg").write_bytes(b"no image")
    (tmp_path / "masks" / "synthetic__0002.png").unlink()
    listing = list_source(str(tmp_path))
    audited = [audit_record(record, listing.classes) for record in listing.records]
    assert {type(each) for each in audited} == {RecordFacts, Refusal}
    back = decode_audit(encode_audit(audited), listing.classes, content_of(audited))
    assert list(map(plain, back)) == list(map(plain, audited))


def with_column(name: str, value: Any) -> bytes:
    table = pq.read_table(io.BytesIO(encode_audit([FACTS])))
    if name in table.schema.names:
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), pa.array([value]))
    else:
        table = table.append_column(name, pa.array([value]))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


WHOLE = encode_audit([FACTS])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "Parquet"),
        (b"\x80\x04N.", "Parquet"),  # a pickle
        (WHOLE[: len(WHOLE) // 2], "Parquet"),
        (with_column("more", 1), "another schema"),
        (encode_audit([replace(FACTS, class_pixels=np.zeros(2, np.int32))]), "has 2 classes"),
        (encode_audit([replace(FACTS, thumbnail=np.empty(0, np.uint8))]), "a thumbnail of 0 bytes"),
        (encode_audit([Refusal(RECORD, (Finding("made_up", ""),))]), "no finding 'made_up'"),  # type: ignore[arg-type]
    ],
)
def test_anything_else_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        decode_audit(data, CLASSES)


def test_no_flipped_bit_becomes_another_result() -> None:
    for at in range(0, len(WHOLE), 37):
        flipped = WHOLE[:at] + bytes([WHOLE[at] ^ 4]) + WHOLE[at + 1 :]
        try:
            (back,) = decode_audit(flipped, CLASSES, content_of([FACTS]))
        except ValueError:
            continue
        assert plain(back) == plain(FACTS), at
