"""A prepared data set: Parquet shards of encoded images and masks, and the manifest `dataset.json` that names them.

    <uri>/dataset.json                            written last: only what it lists exists
    <uri>/v-<generation>-<hex>/<split>/part-00000.parquet
    <uri>/v-<generation>-<hex>/quarantine.parquet   every refused record with its reason
    <uri>/v-<generation>-<hex>/findings.parquet     all findings of the audit, of refused and of accepted records

Object storage has no rename: a new generation is written next to the old one, and then a single PUT of dataset.json
makes it the one that is read.
"""

import hashlib
import io
import json
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.table_writer import TableWriter
from foodseg.errors import MissingFile, UserError

FORMAT_VERSION = 3  # 1 counted `pictures`; 2, of foodseg 0.1.0, has masks as PNG
READABLE = (2, 3)
MAX_ROWS = 1_000  # per shard
MAX_SHARD_BYTES = 256 * 2**20
ROW_GROUP_BYTES = 4 * 2**20  # small enough to read a few rows cheaply, large enough for an efficient GET

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("image", pa.binary()),  # the original file
        ("mask", pa.binary()),  # ids as `stored_mask`, in version 2 as PNG; null = unlabelled
        ("height", pa.int32()),  # after EXIF orientation
        ("width", pa.int32()),
        ("ingredients", pa.list_(pa.int32())),  # ids present, without background
        ("ingredient_pixels", pa.list_(pa.int64())),
        ("group_id", pa.string()),  # near-duplicates share it
        ("source", pa.string()),
    ]
)
QUARANTINE_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("reason", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
        ("findings", pa.list_(pa.string())),  # names in prepare/findings.py that refuse it
    ]
)
FINDINGS_SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("finding", pa.string()),  # a name in prepare/findings.py
        ("detail", pa.string()),
        ("other_id", pa.string()),  # the record that this one repeats, if any
        ("other_split", pa.string()),
        ("correlation", pa.float32()),  # of two near-duplicates
    ]
)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Frozen):
    """One Parquet file. `path` is relative to the data set's URI; `row_groups` are the rows of each row group.

    `uri` and `data_set`: location and name of its data set; only `concat_manifests` sets them.
    """

    split: str
    path: str
    sha256: str
    size: int
    rows: int
    row_groups: tuple[int, ...]
    uri: str | None = None
    data_set: str | None = None


class SplitCounts(_Frozen):
    """What a split holds. The tuples have one entry per class id; pixels include background, not ignored pixels."""

    images: int
    unlabelled: int
    groups: int
    class_images: tuple[int, ...]
    class_pixels: tuple[int, ...]
    ignored_pixels: int

    @property
    def ignored_share(self) -> float:
        """Ignored pixels as a share of the pixels of the masks; 0 without masks."""
        return self.ignored_pixels / max(1, self.ignored_pixels + sum(self.class_pixels))


class Manifest(_Frozen):
    """`dataset.json`; or several, concatenated (`concat_manifests`), whose identities are `members`."""

    format_version: int
    name: str
    generation: int
    folder: str  # of the generation, below the data set's URI; "" for concatenated data sets
    classes: tuple[str, ...]
    ignore_id: int
    annotated: dict[str, tuple[int, ...] | None]  # per source the ids that it annotates; None = every one
    shards: tuple[Shard, ...]
    counts: dict[str, SplitCounts]
    quarantined: int
    longest_side: int | None = None  # larger images were made smaller; None = all images as they came
    audit: dict[str, int] = {}  # number of findings, refusing or not, by name in prepare/findings.py
    members: tuple[str, ...] = ()

    @property
    def class_table(self) -> ClassTable:
        """The label space."""
        return ClassTable(self.classes)

    @property
    def identity(self) -> str:
        """Identifies the exact content: name, generation and a digest of the shards; of each concatenated data set."""
        if self.members:
            return " + ".join(self.members)
        digest = hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode()).hexdigest()[:12]
        return f"{self.name}@v{self.generation}-{digest}"

    def split_shards(self, splits: Sequence[str]) -> list[Shard]:
        """Returns the shards of the splits, in the order of `splits`.

        Raises:
            UserError: a split that the data set does not have.
        """
        for split in splits:
            if split not in self.counts:
                have = ", ".join(f"{name} ({c.images})" for name, c in self.counts.items())
                raise UserError(f"data set {self.name!r} has no split {split!r}; it has {have}")
        return [shard for split in splits for shard in self.shards if shard.split == split]

    def class_pixels(self, splits: Sequence[str]) -> tuple[int, ...]:
        """Returns per class id its pixels in these splits, background included, ignored pixels not."""
        return tuple(map(sum, zip(*(self.counts[split].class_pixels for split in splits), strict=True)))

    def class_images(self, splits: Sequence[str]) -> tuple[int, ...]:
        """Returns per class id the images of these splits that have a pixel of it."""
        return tuple(map(sum, zip(*(self.counts[split].class_images for split in splits), strict=True)))

    def trained_ids(self, splits: Sequence[str]) -> set[int]:
        """Returns the ids with at least one pixel in any of the splits."""
        return {index for index, pixels in enumerate(self.class_pixels(splits)) if pixels > 0}


def read_manifest(uri: str) -> Manifest:
    """Reads `<uri>/dataset.json`.

    Raises:
        UserError: it does not exist, is damaged, or has another format version.
    """
    if not uri:
        raise UserError(
            "data.uri is empty: name a prepared data set, for example --set data.uri=prepared/meals (or several in "
            "data.uris); `foodseg data prepare my/meals prepared/meals` makes one of your images and masks"
        )
    where = storage.join(uri, "dataset.json")
    try:
        text = storage.read_text(where)
    except MissingFile:
        raise UserError(
            f"no prepared data set at {storage.redact(uri)}: dataset.json is missing; "
            f"make one with `foodseg data prepare SRC {shlex.quote(storage.redact(uri))}`"
        ) from None
    try:
        tree = json.loads(text)
        version = tree["format_version"]
        if version not in READABLE:
            raise UserError(
                f"{storage.redact(where)} has format {version}, this foodseg reads {' and '.join(map(str, READABLE))}: "
                + ("prepare again" if version < FORMAT_VERSION else "update foodseg")
            )
        return Manifest.model_validate(tree)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(
            f"{storage.redact(where)} is damaged ({detail}): prepare the data set again with --overwrite"
        ) from None


def write_manifest(uri: str, manifest: Manifest, *, replaces: str | None = "*") -> bool:
    """Writes `<uri>/dataset.json` in one go: this makes the generation visible.

    Args:
        replaces: version of the file that is replaced (`storage.read_versioned`); None: there must be no file; "*":
            whatever is there.

    Returns:
        False, and nothing is written, if another command has written it meanwhile.
    """
    assert not manifest.members, "a concatenated manifest is not a data set"
    text = manifest.model_dump_json(indent=1, exclude={"members": True, "shards": {"__all__": {"uri", "data_set"}}})
    where, data = storage.join(uri, "dataset.json"), f"{text}\n".encode()
    if replaces is None:
        return storage.create_bytes(where, data)
    if replaces != "*":
        return storage.replace_bytes(where, data, replaces)
    storage.write_bytes(where, data)
    return True


def write_shard(uri: str, path: str, split: str, rows: Iterable[dict[str, Any]]) -> Shard:
    """Writes rows (dicts of SCHEMA) as one Parquet file at `<uri>/<path>`, unless it is there already.

    Returns:
        The entry of the file that is there for the manifest.

    Raises:
        UserError: it is there and holds other rows, or cannot be written. RetryLater: the storage does not answer.
    """
    # images and masks do not compress further
    data, where = encode_shard(_row_groups(rows), SCHEMA, "none"), storage.join(uri, path)
    if not storage.create_bytes(where, data):
        data = _same_rows(where, storage.read_bytes(where), data)
    return entry_of_shard(split, path, data)


def encode_shard(groups: Iterable[list[dict[str, Any]]], schema: pa.Schema, compression: str) -> bytes:
    """Returns a Parquet file of these row groups, rows as dicts of `schema`."""
    sink = io.BytesIO()
    # dictionary encoding would only cost time; with checksums a reader of few row groups notices damage too
    options = {"use_dictionary": False, "write_statistics": False, "write_page_checksum": True}
    with pq.ParquetWriter(sink, schema, compression=compression, **options) as writer:
        for group in groups:
            writer.write_table(pa.Table.from_pylist(group, schema=schema), row_group_size=len(group))
    return sink.getvalue()


def entry_of_shard(split: str, path: str, data: bytes) -> Shard:
    """Returns the entry of a Parquet file for a manifest."""
    footer = pq.read_metadata(io.BytesIO(data))
    return Shard(
        split=split,
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        size=len(data),
        rows=footer.num_rows,
        row_groups=tuple(footer.row_group(number).num_rows for number in range(footer.num_row_groups)),
    )


def _same_rows(where: str, there: bytes, own: bytes) -> bytes:
    """Returns the shard that another process wrote first, or one that was killed; masks may be encoded in another way.

    Raises:
        UserError: it is damaged or holds other rows.
    """
    if there == own:
        return there
    try:
        found, expected = (
            pq.read_table(io.BytesIO(data), page_checksum_verification=True).drop_columns("mask")
            for data in (there, own)
        )
        if found.equals(expected):
            return there
        fault = "holds other rows"
    except (pa.ArrowException, KeyError, OSError):
        fault = "is damaged"
    shown = storage.redact(where)
    raise UserError(f"{shown} is there already and {fault}: delete the folder {shown.rpartition('/')[0]} and try again")


def _row_groups(rows: Iterable[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        weight = len(row["image"]) + len(row["mask"] or b"")
        if group and size + weight > ROW_GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append(row)
        size += weight
    if group:
        yield group


def write_quarantine(uri: str, folder: str, refused: Iterable[dict[str, Any]]) -> None:
    """Writes the refused records (dicts of QUARANTINE_SCHEMA) of a generation."""
    _write_rows(storage.join(uri, folder, "quarantine.parquet"), refused, QUARANTINE_SCHEMA)


def read_quarantine(uri: str, folder: str) -> list[dict[str, Any]]:
    """Reads the refused records of a generation. MissingFile: the generation has no such list."""
    return _read_rows(storage.join(uri, folder, "quarantine.parquet"))


def write_findings(uri: str, folder: str, found: Iterable[dict[str, Any]]) -> None:
    """Writes what the audit of a generation found (dicts of FINDINGS_SCHEMA)."""
    _write_rows(storage.join(uri, folder, "findings.parquet"), found, FINDINGS_SCHEMA)


def read_findings(uri: str, folder: str) -> list[dict[str, Any]]:
    """Reads what the audit of a generation found. MissingFile: the generation has no such list."""
    return _read_rows(storage.join(uri, folder, "findings.parquet"))


def _write_rows(where: str, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    with TableWriter(where, schema) as table:
        for row in rows:
            table.add(row)


def _read_rows(where: str) -> list[dict[str, Any]]:
    data = storage.read_bytes(where)
    try:
        return pq.read_table(io.BytesIO(data)).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"{storage.redact(where)} is not a readable Parquet file ({detail})") from None
