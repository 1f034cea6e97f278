"""What the driver keeps of the audit: some forty bytes of each record, whatever was found about it.

    columns = AuditColumns(listed)
    columns.add(batch, decode_audit(data, classes))       # for each batch, in any order
    verdict = columns.verdict(classes)                    # once all are there
    verdict.of(row, each)                                 # a record with its findings, when it is read again

Findings, sizes and pixels of classes stay in the files of the audit's tasks (`audit_rows.py`), and are read from there
again by who needs them, task by task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.data.shards import SplitCounts
from foodseg.prepare.ambiguities import Evidence, Resolution
from foodseg.prepare.audit import RecordFacts, Refusal
from foodseg.prepare.audit_rows import facts_of
from foodseg.prepare.exact_duplicates import Duplicates, find_duplicates
from foodseg.prepare.formats.layout import SPLITS
from foodseg.prepare.record_batches import RecordBatch, RecordBatches

_DIGEST = 16  # bytes that are compared of a SHA-256


@dataclass(frozen=True)
class Verdict:
    """What becomes of N records.

    Attributes:
        resolution: what they have decided together; `duplicates`: which of them occur twice.
        passed: (N,) bool. noted: (N,) bool, True where there is a finding.
        sizes: (N,) int64, bytes in a shard.
        labelled, food, ignored: (N,) int32, pixels of the mask that have an id, that of an ingredient, and none.
    """

    listed: RecordBatches
    resolution: Resolution
    duplicates: Duplicates
    passed: np.ndarray
    noted: np.ndarray
    sizes: np.ndarray
    labelled: np.ndarray
    food: np.ndarray
    ignored: np.ndarray

    def of(self, row: int, each: RecordFacts | Refusal) -> RecordFacts | Refusal:
        """Returns what the audit found about a record, with all that the other records add to it."""
        each = self.resolution.resolved(each)
        other = int(self.duplicates.other[row])
        if other >= 0:
            split = SPLITS[self.listed.splits[other]]
            finding = self.duplicates.finding(row, self.listed.id_of(other), split)
            if self.duplicates.refused[row]:
                return Refusal(each.record, (*each.findings, finding))
            assert isinstance(each, RecordFacts)
            return replace(each, findings=(*each.findings, finding))
        return each

    def food_counts(self, rows: np.ndarray, splits: np.ndarray) -> dict[str, SplitCounts]:
        """Counts each split that has rows, with all ingredients as one class.

        Args:
            rows: (n,) records. splits: (n,) place of the split of each in SPLITS.
        """
        counts = {}
        for number, split in enumerate(SPLITS):
            own = rows[splits == number]
            if len(own):
                pixels = np.stack([self.labelled[own] - self.food[own], self.food[own]])
                counts[split] = SplitCounts(
                    images=len(own),
                    unlabelled=int((~self.listed.labelled[own]).sum()),
                    groups=len(own),
                    class_images=tuple((pixels > 0).sum(1).tolist()),
                    class_pixels=tuple(pixels.sum(1, dtype=np.int64).tolist()),
                    ignored_pixels=int(self.ignored[own].sum(dtype=np.int64)),
                )
        return counts


class AuditColumns:
    """Collects the columns of a `Verdict` and the digests (N,) of the files, batch by batch."""

    def __init__(self, listed: RecordBatches) -> None:
        rows = len(listed)
        self._listed, self._evidence = listed, Evidence()
        self._passed, self._fed, self._noted = (np.zeros(rows, bool) for _ in range(3))
        self._sizes, self.digests = np.zeros(rows, np.int64), np.zeros(rows, f"S{_DIGEST}")
        self._labelled, self._food, self._ignored = (np.zeros(rows, np.int32) for _ in range(3))

    def add(self, batch: RecordBatch, audited: Sequence[RecordFacts | Refusal]) -> None:
        """Keeps what was found about the records of a batch; ValueError, and nothing is kept: they are other ones."""
        ids = self._listed.ids.slice(batch.start, batch.items).to_pylist()
        if [each.record.image_id for each in audited] != ids:
            raise ValueError("it is about other records")
        for row, each in enumerate(audited, start=batch.start):
            self._evidence.add(each)
            self._passed[row], self._noted[row] = isinstance(each, RecordFacts), bool(each.findings)
            facts = facts_of(each)
            if facts is not None:
                self._fed[row] = facts.ignored_pixels > 0
                self._sizes[row], self.digests[row] = facts.size, facts.digest[:_DIGEST]
                self._labelled[row] = facts.class_pixels.sum()
                self._food[row] = facts.class_pixels[BACKGROUND + 1 :].sum()
                self._ignored[row] = facts.ignored_pixels

    def verdict(self, classes: ClassTable) -> Verdict:
        """Decides what the records decide together, once all are there."""
        resolution = self._evidence.resolution(classes)
        passed, ignored = self._passed.copy(), self._ignored
        labelled, food, noted = self._labelled, self._food, self._noted.copy()
        if resolution.ignored_is_food is not None:  # no mask holds an ingredient then
            passed |= self._fed
            labelled, food, ignored = labelled + ignored, ignored, np.zeros_like(ignored)
            noted |= self._fed
        duplicates = find_duplicates(self._listed.ids, self.digests, self._listed.splits, passed)
        noted |= duplicates.other >= 0
        return Verdict(
            self._listed, resolution, duplicates, passed & ~duplicates.refused, noted, self._sizes, labelled, food,
            ignored,
        )  # fmt: skip
