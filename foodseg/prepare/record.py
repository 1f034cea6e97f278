"""What a source format lists: records with the location of image and mask, and their label space.

A record is small and picklable: listing a data set opens no image. Formats may have their own types for the location of
an image or a mask; the plain files here serve most of them.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.image_io import BadFile, Fault, decode_mask
from foodseg.data.unread import UnreadImage, UnreadMask


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image that is one file."""

    uri: str

    def read(self) -> bytes:
        return self.decode(storage.read_bytes(self.uri))

    def decode(self, data: bytes) -> bytes:
        return data


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask that is one file with one channel of ids."""

    uri: str

    def read(self) -> np.ndarray:
        return self.decode(storage.read_bytes(self.uri))

    def decode(self, data: bytes) -> np.ndarray:
        return decode_mask(data)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image or a mask that the listing already found to be invalid: the audit refuses its record by name."""

    reason: str
    fault: Fault = "unreadable"

    def read(self) -> NoReturn:
        raise BadFile(self.reason, self.fault)


@dataclass(frozen=True, slots=True)
class Record:
    """One image of a source data set, still unread.

    Attributes:
        mask: None = unlabelled.
        locality: the file and row group of the record: consecutive records with the same locality are read by one
            task. None = the record has its own files.
    """

    image_id: str
    split: str
    source: str
    image: UnreadImage
    mask: UnreadMask | None
    locality: tuple[str, int] | None = None


@dataclass(frozen=True)
class LostAnnotations:
    """How many of a source's annotations belong to no image; `first` says why for the first of them."""

    count: int
    total: int
    first: str = ""


@dataclass(frozen=True)
class SourceListing:
    """Everything that a source data set lists.

    Attributes:
        records: an id may occur twice: one record keeps it, the audit refuses the others by name.
        annotated: per source the ids that it annotates; a source that is not listed annotates all ids.
        lost: None where the format does not list annotations separately from images.
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

    Two records with the same long name are the same image: they keep one id, and the audit refuses one of them.
    """
    long_names: dict[str, set[str]] = defaultdict(set)
    for name, long_name in zip(short, long, strict=True):
        long_names[name].add(long_name)
    return [name if len(long_names[name]) == 1 else long_name for name, long_name in zip(short, long, strict=True)]
