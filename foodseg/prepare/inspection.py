"""What `data inspect` gives back; `to_json` is what it prints with `--json`.

found = inspect_data("s3://bucket/meals", "inspect-meals")
print(found.splits["train"].images, found.never_in_train)
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Rows = Sequence[Mapping[str, Any]]
"""Of findings.parquet or quarantine.parquet, with the columns that `data/shards.py` lists."""


@dataclass(frozen=True)
class SplitSummary:
    """A split: images, how many of them without mask, near-duplicate groups, labelled and ignored pixels.

    ignored_share: of the pixels of images with a mask, in [0, 1].
    """

    images: int
    unlabelled: int
    groups: int
    pixels: int
    ignored_pixels: int
    ignored_share: float


@dataclass(frozen=True)
class SourceSummary:
    """A source; `annotated`: the ids that it annotates, None = all."""

    images: int
    annotated: tuple[int, ...] | None


@dataclass(frozen=True)
class ClassCounts:
    """In how many images of a split a class occurs, and with how many pixels."""

    images: int
    pixels: int


@dataclass(frozen=True)
class ClassSummary:
    """A class over all splits, and by split; `share` of the labelled pixels, in [0, 1]."""

    id: int
    name: str
    images: int
    pixels: int
    share: float
    splits: Mapping[str, ClassCounts]


@dataclass(frozen=True)
class SimilarClasses:
    """Two classes whose names are easily confused; `similarity` in [0, 1]."""

    ids: tuple[int, int]
    names: tuple[str, str]
    similarity: float


@dataclass(frozen=True)
class SharedGroups:
    """How many images of `split` have a near-duplicate in the split `other`."""

    split: str
    other: str
    images: int


@dataclass(frozen=True)
class AuditCount:
    """How often the audit made a finding, what that does to a record, and the first records that have it."""

    finding: str
    effect: str
    meaning: str
    count: int
    examples: Rows


@dataclass(frozen=True)
class Verified:
    """The shards that are as `dataset.json` lists them, and their size."""

    shards: int
    bytes: int


@dataclass(frozen=True)
class Inspection:
    """A prepared data set; `data` is its identity, `uri` is without secrets.

    class_table: by falling pixels. never_in_train: ids without a pixel there.
    closest_names: most easily confused by their letters, first. closest_embeddings: (name, other name, cosine) of the
    text embeddings that were given; None = none were.
    findings, quarantine: all rows; None = this data set was written without them.
    images: where the contact sheets are, by name. verified: None = not asked for.
    """

    data: str
    uri: str
    ids: int
    ignore_id: int
    splits: Mapping[str, SplitSummary]
    sources: Mapping[str, SourceSummary]
    class_table: tuple[ClassSummary, ...]
    never_in_train: tuple[int, ...]
    closest_names: tuple[SimilarClasses, ...]
    closest_embeddings: Sequence[tuple[str, str, float]] | None
    shared_groups: tuple[SharedGroups, ...]
    audit: tuple[AuditCount, ...]
    findings: Rows | None
    quarantine: Rows | None
    images: Mapping[str, str]
    verified: Verified | None

    def to_json(self) -> dict[str, object]:
        """Returns it as `foodseg data inspect --json` prints it."""
        return asdict(self)
