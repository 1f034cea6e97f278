"""What a source format lists: records that say where their image and mask lie, and the label space they are in.

A record is small and picklable: listing a data set opens no image. Each format has its own ways to say where bytes or
masks lie; these, plain files, serve most of them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.encoded import Encoded, Mask
from foodseg.data.image_io import BadFile, Fault, decode_mask


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own."""

    uri: str

    def read(self) -> bytes:
        return storage.read_bytes(self.uri)


@dataclass(frozen=True)
class MaskFile:
    """A mask of one channel of ids in a file of its own."""

    uri: str

    def read(self) -> np.ndarray:
        return decode_mask(storage.read_bytes(self.uri))


@dataclass(frozen=True)
class Unreadable:
    """An image or a mask that the listing already knows to be bad: the audit refuses its record by name."""

    reason: str
    fault: Fault = "unreadable"

    def read(self) -> NoReturn:
        raise BadFile(self.reason, self.fault)


@dataclass(frozen=True)
class Record:
    """One image of a source data set, still unread.

    Attributes:
        mask: None = unlabelled.
        locality: the file and the row group that it lies in: records that follow each other and share it are read by
            one task. None = it lies in files of its own.
    """

    image_id: str
    split: str
    source: str
    image: Encoded
    mask: Mask | None
    locality: tuple[str, int] | None = None


@dataclass(frozen=True)
class LostAnnotations:
    """How many of a source's annotations belong to no image; `first` says of one what it has in place of one."""

    count: int
    total: int
    first: str = ""


@dataclass(frozen=True)
class SourceListing:
    """Everything that a source data set lists.

    Attributes:
        records: an id may stand twice: one record keeps it, the audit refuses the others by name.
        annotated: per source the ids that it annotates; sources that are left out annotate every one.
        lost: None where annotations are not listed apart from their images.
    """

    classes: ClassTable
    records: tuple[Record, ...]
    annotated: dict[str, tuple[int, ...]] = field(default_factory=dict)
    lost: LostAnnotations | None = None


def source_of(stem: str) -> str:
    """Returns the text before `__` in the name of an image ("canteen__0001" comes from "canteen"), or ""."""
    source, mark, _ = stem.partition("__")
    return source if mark else ""


def distinct_ids(short: Sequence[str], long: Sequence[str]) -> list[str]:
    """Returns an id for each record: its short name, or the long one where other records have the same short name.

    Two records with the same long name are one and the same image: they keep one id, and the audit refuses one.
    """
    places: dict[str, set[str]] = defaultdict(set)
    for name, place in zip(short, long, strict=True):
        places[name].add(place)
    return [name if len(places[name]) == 1 else place for name, place in zip(short, long, strict=True)]
