"""What a task of the audit leaves on storage: facts as rows of a Parquet file, and next to it what shards will hold.

    content, name = content_of(audited), ...                # images and masks, one after the other
    data = encode_audit(audited, name)                      # facts and findings; names the file of the content
    decode_audit(data, classes)                             # without images and masks: on the driver
    decode_audit(data, classes, content)                    # with them: where shards are written

A killed `data prepare` reads these files instead of images. Where an image is, and that of its mask, is not stored: the
audit is the last to read them.
"""

import io
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foodseg.classes import ClassTable
from foodseg.prepare.audit import THUMBNAIL, RecordFacts, Refusal
from foodseg.prepare.checked import CheckedImage, CheckedMask
from foodseg.prepare.findings import FINDINGS, Finding
from foodseg.prepare.record import Record

AUDIT_FORMAT = 2  # of the identity of a plan: raise it when the audit finds other things, or they are stored otherwise

_FINDING = pa.struct(
    [
        ("name", pa.string()),
        ("detail", pa.string()),
        ("other_id", pa.string()),
        ("other_split", pa.string()),
        ("correlation", pa.float64()),
    ]
)
_FACTS = pa.struct(
    [
        ("findings", pa.list_(_FINDING)),
        ("size", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("mask_turn", pa.int8()),
        ("class_pixels", pa.binary()),  # (K,) int32, little-endian
        ("thumbnail", pa.binary()),  # (THUMBNAIL x THUMBNAIL x 3,) uint8
        ("digest", pa.binary()),
        ("ignored_pixels", pa.int64()),
        ("orientation", pa.int8()),
        ("stored_evidence", pa.float64()),
        ("ignored_is_food", pa.bool_()),
        ("image_bytes", pa.int64()),  # in the file of the content, in the order of the rows, each mask after its image
        ("mask_bytes", pa.int64()),  # null = unlabelled
        ("checksum", pa.int64()),  # CRC-32 of both
    ]
)
_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
        ("refused_for", pa.list_(_FINDING)),  # null = not refused
        ("facts", _FACTS),  # null = refused for more than ignored pixels
    ]
)
_PIXELS = np.dtype("<i4")
_NOTHING = np.empty(0, np.uint8)
_CONTENT = b"content"  # key of the schema's metadata
_RECORD = ("image_id", "split", "source")
_OF_CONTENT = ("image_bytes", "mask_bytes", "checksum")


def content_of(audited: Sequence[RecordFacts | Refusal]) -> bytes:
    """Returns the images and masks of all records that have facts, one after the other."""
    return b"".join(part for each in audited if (facts := facts_of(each)) is not None for part in _content(facts))


def encode_audit(audited: Sequence[RecordFacts | Refusal], content: str = "") -> bytes:
    """Returns a Parquet file of one row for each record.

    Args:
        content: name of the file that holds `content_of` these records.
    """
    sink = io.BytesIO()
    schema = _SCHEMA.with_metadata({_CONTENT: content.encode()})
    table = pa.Table.from_pylist([_row(each) for each in audited], schema=schema)
    pq.write_table(table, sink, compression="zstd", write_statistics=False, write_page_checksum=True)
    return sink.getvalue()


def decode_audit(data: bytes, classes: ClassTable, content: bytes | None = None) -> list[RecordFacts | Refusal]:
    """Returns what `encode_audit` was given; without `content` images, masks and thumbnails are empty.

    Raises:
        ValueError: the file is damaged or has another schema, or the content does not belong to it.
    """
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())[:200]) from None
    if not table.schema.equals(_SCHEMA):
        raise ValueError("it has another schema")
    at = 0
    found: list[RecordFacts | Refusal] = []
    for row in table.to_pylist():
        size = 0 if row["facts"] is None else row["facts"]["image_bytes"] + (row["facts"]["mask_bytes"] or 0)
        found.append(_audited(row, len(classes), None if content is None else content[at : at + size]))
        at += size
    return found


def content_name(data: bytes) -> str:
    """Returns the `content` that `encode_audit` was given; ValueError where the file is damaged."""
    try:
        metadata = pq.read_schema(io.BytesIO(data)).metadata or {}
    except OSError as error:
        raise ValueError(str(error)) from None
    return metadata.get(_CONTENT, b"").decode()


def facts_of(each: RecordFacts | Refusal) -> RecordFacts | None:
    """Returns the facts of a record that passed, or would if its ignored pixels were an ingredient."""
    return each if isinstance(each, RecordFacts) else each.facts


def read_thumbnails(data: bytes, rows: Sequence[int]) -> np.ndarray:
    """Returns (n, 3 x THUMBNAIL x THUMBNAIL) uint8, the thumbnails of these rows, which passed, of such a file."""
    file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
    facts = file.read(columns=["facts.thumbnail"]).column("facts").combine_chunks()
    listed = facts.field("thumbnail").take(pa.array(rows, pa.int64())).to_pylist()
    return np.frombuffer(b"".join(listed), np.uint8).reshape(len(rows), 3 * THUMBNAIL**2)


def _content(facts: RecordFacts) -> Iterator[bytes]:
    image, mask = facts.record.image, facts.record.mask
    assert isinstance(image, CheckedImage) and (mask is None or isinstance(mask, CheckedMask))
    yield image.data
    if mask is not None:
        yield mask.data


def _row(each: RecordFacts | Refusal) -> dict[str, Any]:
    return {
        **{name: getattr(each.record, name) for name in _RECORD},
        "refused_for": [vars(finding) for finding in each.findings] if isinstance(each, Refusal) else None,
        "facts": None if (facts := facts_of(each)) is None else _facts_row(facts),
    }


def _facts_row(facts: RecordFacts) -> dict[str, Any]:
    content = list(_content(facts))
    return {
        **{name: value for name, value in vars(facts).items() if name != "record"},
        "findings": [vars(finding) for finding in facts.findings],
        "class_pixels": facts.class_pixels.astype(_PIXELS).tobytes(),
        "thumbnail": facts.thumbnail.tobytes(),
        "image_bytes": len(content[0]),
        "mask_bytes": len(content[1]) if len(content) > 1 else None,
        "checksum": zlib.crc32(b"".join(content)),
    }


def _audited(row: dict[str, Any], classes: int, content: bytes | None) -> RecordFacts | Refusal:
    about, facts = {name: row[name] for name in _RECORD}, None
    if row["facts"] is not None:
        facts = _facts(about, row["facts"], classes, content)
    if row["refused_for"] is not None:
        record = facts.record if facts is not None else Record(**about, image=CheckedImage(b""), mask=None)
        return Refusal(record, _findings(row["refused_for"]), facts)
    if facts is None:
        raise ValueError(f"{row['image_id']!r} is neither accepted nor refused")
    return facts


def _facts(about: dict[str, Any], row: dict[str, Any], classes: int, content: bytes | None) -> RecordFacts:
    pixels, thumbnail = np.frombuffer(row["class_pixels"], _PIXELS), np.frombuffer(row["thumbnail"], np.uint8)
    if len(pixels) != classes or len(thumbnail) != 3 * THUMBNAIL**2:
        raise ValueError(f"{about['image_id']!r} has {len(pixels)} classes and a thumbnail of {len(thumbnail)} bytes")
    image, mask = b"", b""
    if content is not None:
        if zlib.crc32(content) != row["checksum"]:
            raise ValueError(f"the image and the mask of {about['image_id']!r} are damaged")
        image, mask = content[: row["image_bytes"]], content[row["image_bytes"] :]
    return RecordFacts(
        **{
            **{name: value for name, value in row.items() if name not in _OF_CONTENT},
            "record": Record(
                **about,
                image=CheckedImage(image),
                mask=None if row["mask_bytes"] is None else CheckedMask(mask),
            ),
            "findings": _findings(row["findings"]),
            "class_pixels": pixels.astype(np.int32),
            "thumbnail": _NOTHING if content is None else thumbnail,
        }
    )


def _findings(rows: Sequence[dict[str, Any]]) -> tuple[Finding, ...]:
    unknown = [row["name"] for row in rows if row["name"] not in FINDINGS]
    if unknown:
        raise ValueError(f"there is no finding {unknown[0]!r}")
    return tuple(Finding(**row) for row in rows)
