"""What a source format lists: records that name their files, and the label space they are in."""

from dataclasses import dataclass

from foodseg.classes import ClassTable


@dataclass(frozen=True)
class Record:
    """One picture of a source data set, still unread. `mask_uri` None = unlabelled."""

    image_id: str
    split: str
    source: str
    image_uri: str
    mask_uri: str | None


@dataclass(frozen=True)
class SourceListing:
    """Everything that a source data set lists."""

    classes: ClassTable
    records: tuple[Record, ...]
