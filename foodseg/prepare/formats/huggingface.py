"""Hugging Face data sets in Parquet, from a local or s3:// mirror or from the hub (`storage.hub`).

    <src>/data/train-00000-of-00003.parquet    or <src>/train.parquet: the name gives the split. A validation split is
                                               used as test where there is no other: the mirrors of FoodSeg103 and
                                               UEC-FoodPix Complete call the official test split so
    <src>/default/train/0000.parquet           as the hub converts data sets (refs/convert/parquet); one configuration
    <src>/classes.txt, category_id.txt (id<TAB>name) or id2label.json     the class names

Column `image` holds the file of the image, `label` (or `mask`, `annotation`) the PNG of its mask, each as `datasets`
writes images (struct of bytes and path) or as bytes; null = unlabelled. A mask has one channel, or three of which red
is the id (as UEC's) and green and blue are 0 or equal to red. Without a file of class names the names of the one
ClassLabel in the features are used. The image id is the name in `path`, else column `id` where its values are unique,
else the number of the row.
"""

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.image_io import BadFile, decode_mask
from foodseg.errors import UserError
from foodseg.prepare.formats.layout import SPLITS, names_split, splits_by_name, visible, without_extension
from foodseg.prepare.formats.uecfoodpix import decode_colours
from foodseg.prepare.record import Record, SourceListing, distinct_ids, source_of
from foodseg.storage import hub

NEEDS = "train*.parquet, or data/ with it"
IMAGE_COLUMN = "image"
MASK_COLUMNS = ("label", "mask", "annotation")
CLASS_FILES = ("classes.txt", "category_id.txt", "id2label.json")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ParquetCell:
    """The bytes in one cell of a Parquet file; `column` is the path of the leaf, such as "image.bytes"."""

    uri: str
    row_group: int
    row: int
    column: str

    def read(self) -> bytes:
        value = _read_leaf(self.uri, self.row_group, self.column)[self.row].as_py()
        if value is None:
            raise BadFile(f"row {self.row} of row group {self.row_group} has no {self.column}", "missing_file")
        return bytes(value)


@dataclass(frozen=True)
class ParquetMask:
    """A mask in one cell of a Parquet file."""

    cell: ParquetCell

    def read(self) -> np.ndarray:
        return decode_label(self.cell.read())


def decode_label(data: bytes) -> np.ndarray:
    """Decodes a mask of one channel, or of three with the ids in the red one, to (H, W) uint8 or uint16 ids.

    Raises:
        BadFile: unreadable, or colours that are not ids: green and blue are neither 0 nor equal to red.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n" or data[25:26] not in (b"\x02", b"\x06"):  # PNG's colour types RGB and RGBA
        return decode_mask(data)
    colours = decode_colours(data)
    red = colours[:, :, 0]
    if colours[:, :, 1:].any() and not (colours == red[:, :, None]).all():
        sentence = "the mask is a colour image; ids are in one channel, or in red with green and blue 0"
        raise BadFile(sentence, "mask_mode")
    return red


@lru_cache(maxsize=2)  # images and masks of the row group that is being read: its records are consecutive
def _read_leaf(uri: str, row_group: int, column: str) -> pa.ChunkedArray:
    with _parquet(uri) as file:
        return _leaf(file.read_row_group(row_group, columns=[column]))


@dataclass(frozen=True)
class _Row:
    """A row of a Parquet file; `stem` from the `path` of its image ("" = none), `key` from column `id`."""

    uri: str
    split: str
    row_group: int
    row: int
    image: str
    mask: str | None
    stem: str
    key: str | None


def missing_in_huggingface(src: str) -> list[str]:
    """Returns what `src` lacks to be a Hugging Face data set in Parquet; [] = nothing."""
    return [] if _parquet_paths(src) else ["a .parquet file"]


def has_conversion(src: str) -> bool:
    """True where folders of `src` hold Parquet files as the hub's own conversion does: CONFIG/SPLIT/0000.parquet."""
    return bool(_nested_paths(src))


def list_huggingface(src: str) -> SourceListing:
    """Lists a Hugging Face data set; reads the ends of its Parquet files and their columns `path` and `id`, no image.

    Raises:
        UserError: no Parquet files, missing columns, files that do not name a split, or no class names.
        RetryLater: the storage or the hub does not answer.
    """
    paths = _parquet_paths(src) or _nested_paths(src)
    if not paths:
        raise UserError(f"{storage.redact(src)} holds no Parquet files; expected {NEEDS}")
    splits = _splits(paths, storage.redact(src))
    paths.sort(key=lambda path: SPLITS.index(splits[path]))
    rows: list[_Row] = []
    features: list[Any] = []
    for path in paths:
        uri = _files(src).join(src, path)
        with _parquet(uri) as file:
            rows += _rows(file, uri, splits[path])
            features.append(_features(file, uri))
    records = (
        Record(
            image_id=image_id,
            split=row.split,
            source=source_of(row.stem),
            image=ParquetCell(row.uri, row.row_group, row.row, row.image),
            mask=None if row.mask is None else ParquetMask(ParquetCell(row.uri, row.row_group, row.row, row.mask)),
            locality=(row.uri, row.row_group),
        )
        for image_id, row in zip(_ids(rows), rows, strict=True)
    )
    return SourceListing(_class_table(src, paths, features), tuple(records))


def _files(uri: str) -> ModuleType:
    """Returns the module that reads files at `uri`: both have `join`, `list_names`, `read_text` and `open_input`."""
    return hub if storage.is_hub(uri) else storage


def _names(src: str, *below: str) -> list[str]:
    return visible(_files(src).list_names(_files(src).join(src, *below)))


def _parquet_paths(src: str) -> list[str]:
    here = _names(src)
    below = _names(src, "data") if "data" in here else []
    return [path for path in (*here, *(f"data/{name}" for name in below)) if path.endswith(".parquet")]


def _nested_paths(src: str) -> list[str]:
    """Returns SPLIT/*.parquet, CONFIG/*.parquet and CONFIG/SPLIT/*.parquet; not those of a prepared data set."""
    found = []
    here = _names(src)
    folders = [] if "dataset.json" in here else [name for name in here if "." not in name]
    for folder in folders:
        inside = _names(src, folder)
        if "dataset.json" in inside:
            continue
        found += [f"{folder}/{name}" for name in inside if name.endswith(".parquet")]
        for split in inside:
            if "." not in split:
                found += [f"{folder}/{split}/{n}" for n in _names(src, folder, split) if n.endswith(".parquet")]
    return found


def _splits(paths: Sequence[str], where: str) -> dict[str, str]:
    """Returns the split of each path. UserError: several configurations, or files that do not name a split."""
    configs = sorted({path.split("/")[0] for path in paths if "/" in path and not names_split(path.split("/")[0])})
    if len(configs) > 1:
        raise UserError(
            f"{where} holds several configurations, {', '.join(configs)}: give one of them, "
            f"for example {where}/{configs[0]}"
        )
    own = {path: path.removeprefix(f"{configs[0]}/") if configs else path for path in paths}
    if len(paths) > 1 and not any(map(names_split, own.values())):
        _log.info("%s: none of its files names a split, so that all of it is train", where)
        return dict.fromkeys(paths, "train")
    if any("partial-" in name for name in own.values()):
        _log.warning("%s holds only a part of a large data set (the hub's conversion calls it partial)", where)
    by_name = splits_by_name(list(own.values()), where)
    splits = {path: by_name[name] for path, name in own.items()}
    if "val" in splits.values() and "test" not in splits.values():
        _log.info("%s has no test split: its validation split is taken for the official test", where)
        splits = {path: "test" if split == "val" else split for path, split in splits.items()}
    return splits


@contextlib.contextmanager
def _parquet(uri: str) -> Iterator[pq.ParquetFile]:
    """Opens a Parquet file; UserError where it is damaged or not Parquet."""
    with _files(uri).open_input(uri) as stream:
        try:
            yield pq.ParquetFile(stream)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{storage.redact(uri)} is not a readable Parquet file: {error}") from None


def _leaf(table: pa.Table) -> pa.ChunkedArray:
    """Returns the one leaf of the one column that was read."""
    column = table.column(0)
    return pc.struct_field(column, [0]) if pa.types.is_struct(column.type) else column


def _rows(file: pq.ParquetFile, uri: str, split: str) -> Iterator[_Row]:
    schema = file.schema_arrow
    image, mask = _bytes_leaf(schema, (IMAGE_COLUMN,), uri), _bytes_leaf(schema, MASK_COLUMNS, uri)
    path = f"{IMAGE_COLUMN}.path"
    has_path = image != IMAGE_COLUMN and schema.field(IMAGE_COLUMN).type.get_field_index("path") >= 0
    has_id = "id" in schema.names and not pa.types.is_nested(schema.field("id").type)
    paths = _leaf(file.read(columns=[path])).to_pylist() if has_path else [None] * file.metadata.num_rows
    keys = file.read(columns=["id"]).column(0).to_pylist() if has_id else [None] * file.metadata.num_rows
    at = 0
    for group in range(file.num_row_groups):
        unlabelled = _null_rows(file, group, mask)
        for row in range(file.metadata.row_group(group).num_rows):
            name = str(paths[at] or "").replace("\\", "/").rsplit("/", 1)[-1]
            key = None if keys[at] is None else str(keys[at])
            yield _Row(uri, split, group, row, image, None if row in unlabelled else mask, without_extension(name), key)
            at += 1


def _features(file: pq.ParquetFile, uri: str) -> Any:
    """Returns the features that `datasets` describes in a file; {} where there are none."""
    try:
        return json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    except (ValueError, RecursionError) as error:
        _log.warning("%s: its metadata `huggingface` is not JSON and is ignored (%s)", storage.redact(uri), error)
        return {}


def _bytes_leaf(schema: pa.Schema, names: Sequence[str], uri: str) -> str:
    found = []
    for name in names:
        kind = schema.field(name).type if name in schema.names else pa.null()
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            found.append(f"{name}.bytes")
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            found.append(name)
    if len(found) != 1:
        raise UserError(
            f"{storage.redact(uri)} has {len(found) or 'no'} columns of images among {', '.join(names)}, of which "
            f"there should be one; its columns are {', '.join(schema.names)}"
        )
    return found[0]


def _null_rows(file: pq.ParquetFile, group: int, leaf: str) -> frozenset[int]:
    """Returns the null rows of a row group; reads the column only where its statistics do not rule out nulls."""
    meta = file.metadata.row_group(group)
    chunk = next(c for c in map(meta.column, range(meta.num_columns)) if c.path_in_schema == leaf)
    if chunk.statistics is not None and chunk.statistics.has_null_count and chunk.statistics.null_count == 0:
        return frozenset()
    return frozenset(np.flatnonzero(_leaf(file.read_row_group(group, columns=[leaf])).is_null()).tolist())


def _ids(rows: Sequence[_Row]) -> list[str]:
    stems = [row.stem for row in rows]
    if all(stems) and len({(row.split, row.stem) for row in rows}) == len(rows):
        short = stems
    elif len({row.key for row in rows} - {None}) == len(rows):
        short = [str(row.key) for row in rows]
    else:
        counters = {split: itertools.count() for split in SPLITS}
        short = [f"{row.split}-{next(counters[row.split]):06d}" for row in rows]
    return distinct_ids(short, [f"{row.split}/{name}" for row, name in zip(rows, short, strict=True)])


def _class_table(src: str, paths: Sequence[str], features: Any) -> ClassTable:
    for below in dict.fromkeys(("", *(path.rpartition("/")[0].partition("/")[0] for path in paths))):
        here = _names(src, below) if below else _names(src)
        for name in CLASS_FILES:
            if name in here:
                return _read_classes(_files(src).join(src, below, name) if below else _files(src).join(src, name))
    labels = sorted(set(_class_labels(features)))
    where = storage.redact(src)
    if len(labels) == 1 and "background" in labels[0][0].lower():
        _log.info("%s: the class names are those of its ClassLabel feature", where)
        return ClassTable(labels[0])
    add = "into a folder of its files, and give that folder" if storage.is_hub(src) else "next to its files"
    raise UserError(
        f"{where} does not say what the ids in its masks mean: put classes.txt (id<TAB>name, 0 = background) {add}"
    )


def _read_classes(uri: str) -> ClassTable:
    text, where = _files(uri).read_text(uri), storage.redact(uri)
    if storage.without_query(uri).endswith(".json"):
        try:
            names = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where} is not JSON: {error}") from None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            names = dict(enumerate(names))
        if not isinstance(names, dict):
            raise UserError(f"{where} should be an object of id: name")
        if all(isinstance(value, int) for value in names.values()) and not any(map(str.isdecimal, map(str, names))):
            # inverted: label2id
            names = {index: name for name, index in names.items()}
        text = "".join(f"{index}\t{name}\n" for index, name in names.items())
    return ClassTable.from_text(text, where)


def _class_labels(features: Any) -> Iterator[tuple[str, ...]]:
    """Yields the names of every ClassLabel, however deep."""
    left = [features]
    while left:
        feature = left.pop()
        if isinstance(feature, dict):
            names = feature.get("names")
            if feature.get("_type") == "ClassLabel" and isinstance(names, list) and names:
                yield tuple(map(str, names))
            left += feature.values()
        elif isinstance(feature, list):
            left += feature
