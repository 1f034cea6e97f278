"""The counts of an evaluation, image by image, as one Parquet file.

An image shows a handful of the K classes, so only the non-zero cells of its confusion matrix are kept. From this file
any score can be computed again, on any subset of images, and two checkpoints can be compared (`compare.py`), without
running a model.

    write_image_counts("s3://runs/a/images.parquet", images, names, "test", "foodmix@3")
    images, facts = read_image_counts("s3://runs/a/images.parquet")
    print(scores(merge(images, len(facts.classes)), facts.classes).miou)
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from foodseg import storage
from foodseg.errors import UserError

_METADATA_KEY = b"foodseg.images"
_FORMAT_VERSION = 3  # versions 1 and 2 used `_EARLIER_KEY`
_EARLIER_KEY = b"foodseg.pictures"
_FIELDS = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("group_id", pa.string(), nullable=False),
    pa.field("truth", pa.list_(pa.int32()), nullable=False),
    pa.field("prediction", pa.list_(pa.int32()), nullable=False),
    pa.field("count", pa.list_(pa.int64()), nullable=False),
    pa.field("boundary_id", pa.list_(pa.int32())),
    pa.field("boundary_both", pa.list_(pa.int64())),
    pa.field("boundary_truth", pa.list_(pa.int64())),
    pa.field("boundary_predicted", pa.list_(pa.int64())),
]
_CELLS = ("truth", "prediction", "count")
_BOUNDARY = ("boundary_id", "boundary_both", "boundary_truth", "boundary_predicted")


# Comparing arrays does not give a single bool, so the generated __eq__ would raise.
@dataclass(frozen=True, eq=False)
class ImageCounts:
    """The non-zero cells of one image's confusion matrix: `count[i]` pixels of id `truth[i]` got id `prediction[i]`.

    truth, prediction: (n,) int32. count: (n,) int64. n is 0 when every pixel is ignored.
    boundary: (m, 4) int64 of `boundary.boundary_counts`; None where they were not taken.
    Near-duplicates share `group_id`.
    """

    image_id: str
    group_id: str
    truth: np.ndarray
    prediction: np.ndarray
    count: np.ndarray
    boundary: np.ndarray | None = None

    @classmethod
    def from_matrix(
        cls, image_id: str, group_id: str, matrix: np.ndarray, boundary: np.ndarray | None = None
    ) -> "ImageCounts":
        """Takes the non-zero cells of `matrix`: (K, K) integers, rows truth, columns prediction."""
        truth, prediction = np.nonzero(matrix)
        count = matrix[truth, prediction].astype(np.int64)
        return cls(image_id, group_id, truth.astype(np.int32), prediction.astype(np.int32), count, boundary)


@dataclass(frozen=True)
class Conditions:
    """What scores depend on: keys of the section `eval`, and how label maps were redrawn.

    refine: along masks of Segment Anything, how and with which weights; None = they were not.
    recheck: which region classifier looked again at regions, and below which confidence; None = none did.
    provided: where the lists of `ingredients` = provided are from; None = from the truth, an oracle.
    """

    weights: str
    ingredients: str
    restrict: str
    provided: str | None = None
    refine: str | None = None
    recheck: str | None = None

    @property
    def is_oracle(self) -> bool:
        """Whether the model was conditioned on the truth."""
        return self.ingredients == "provided" and self.provided is None

    def to_json(self) -> dict[str, str]:
        """Returns the fields that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class CountsFacts:
    """What counts were taken from: K class names, the split, the identity of the data set.

    conditions: None for label maps.
    """

    classes: tuple[str, ...]
    split: str
    data: str
    conditions: Conditions | None


def merge(images: Iterable[ImageCounts], classes: int) -> np.ndarray:
    """Adds the images up to one confusion matrix, (K, K) int64, rows truth, columns prediction.

    Raises:
        UserError: an image holds an id outside [0, classes).
    """
    matrix = np.zeros((classes, classes), dtype=np.int64)
    for image in images:
        refuse_strange_ids(image, classes)
        np.add.at(matrix, (image.truth, image.prediction), image.count)
    return matrix


def refuse_strange_ids(image: ImageCounts, classes: int) -> None:
    """Raises UserError when `image` holds an id outside [0, classes): it was counted in another label space."""
    for ids in (image.truth, image.prediction):
        if ids.size and (ids.min() < 0 or ids.max() >= classes):
            strange = int(ids.min() if ids.min() < 0 else ids.max())
            raise UserError(f"image {image.image_id!r} holds id {strange}, valid ids are 0 to {classes - 1}")


def write_image_counts(
    uri: str,
    images: Iterable[ImageCounts],
    classes: Sequence[str],
    split: str,
    data: str,
    conditions: Conditions | None = None,
) -> None:
    """Writes the images to one Parquet file at `uri`, replacing what is there.

    Args:
        uri: a path or a URI such as `s3://bucket/images.parquet`.
        images: any number of images, each image id once; ids in [0, len(classes)).
        classes: the K class names.
        split: the split they were taken from.
        data: the identity of the data set: its name and generation.
        conditions: None for label maps.

    Raises:
        UserError: an image id occurs twice (it would be counted twice), or a class id is outside the label space.
    """
    images = list(images)
    twice = [image_id for image_id, times in Counter(image.image_id for image in images).items() if times > 1]
    if twice:
        raise UserError(f"each image is counted once, but {', '.join(map(repr, twice[:3]))} occurs more than once")
    for image in images:
        refuse_strange_ids(image, len(classes))
    under = None if conditions is None else conditions.to_json()
    metadata = {
        "version": _FORMAT_VERSION, "classes": list(classes), "split": split, "data": data, "conditions": under,
    }  # fmt: skip
    schema = pa.schema(_FIELDS, metadata={_METADATA_KEY: json.dumps(metadata).encode()})
    columns = {name: [getattr(image, name) for image in images] for name in ("image_id", "group_id", *_CELLS)}
    for column, name in enumerate(_BOUNDARY):
        columns[name] = [None if p.boundary is None else p.boundary[:, column] for p in images]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=schema), sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def read_image_counts(uri: str) -> tuple[list[ImageCounts], CountsFacts]:
    """Reads what `write_image_counts` wrote.

    Returns:
        The images in the order in which they were written, and what they were taken from.

    Raises:
        UserError: the file is not Parquet, was not written by `write_image_counts`, or has another format version.
    """
    content, shown = storage.read_bytes(uri), storage.redact(uri)
    try:
        table = pq.read_table(pa.BufferReader(content))
    except pa.ArrowInvalid as error:
        raise UserError(f"{shown} is not a Parquet file of image counts: {error}") from error
    written = (table.schema.metadata or {}).get(_METADATA_KEY)
    if written is None and (earlier := (table.schema.metadata or {}).get(_EARLIER_KEY)) is not None:
        raise _other_version(shown, json.loads(earlier)["version"])
    if written is None:
        raise UserError(f"{shown} holds no image counts: expected a file that `foodseg evaluate` wrote")
    metadata = json.loads(written)
    if metadata["version"] != _FORMAT_VERSION:
        raise _other_version(shown, metadata["version"])
    columns = [table.column(name).to_pylist() for name in ("image_id", "group_id")]
    columns += [[cells.values.to_numpy() for cells in table.column(name)] for name in _CELLS]
    columns.append(_boundaries(table))
    conditions = metadata["conditions"]
    facts = CountsFacts(
        classes=tuple(metadata["classes"]),
        split=metadata["split"],
        data=metadata["data"],
        conditions=None if conditions is None else Conditions(**conditions),
    )
    return [ImageCounts(*row) for row in zip(*columns, strict=True)], facts


def _other_version(shown: str, version: int) -> UserError:
    remedy = "evaluate again" if version < _FORMAT_VERSION else "update foodseg"
    return UserError(f"{shown} has format version {version}, this foodseg reads {_FORMAT_VERSION}: {remedy}")


def _boundaries(table: pa.Table) -> list[np.ndarray | None]:
    rows = zip(*(table.column(name) for name in _BOUNDARY), strict=True)
    return [
        np.stack([cells.values.to_numpy() for cells in row], axis=1).astype(np.int64) if row[0].is_valid else None
        for row in rows
    ]
