"""Decides what one record leaves open from the others of its data set: how masks are turned, and what 255 means.

    evidence = Evidence()
    for each in audited: evidence.add(each)                 # counts, not records
    resolution = evidence.resolution(classes)
    audited = [resolution.resolved(each) for each in audited]

A tool draws all its masks on the image as shown, or all on the image as stored. Where no mask of a data set with one
ingredient holds its id, but many hold 255, 255 means that ingredient: read as "ignored" it would leave nothing to
learn.
"""

import logging
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from foodseg.classes import IGNORE_8BIT, ClassTable
from foodseg.prepare.audit import RecordFacts, Refusal
from foodseg.prepare.audit_rows import facts_of
from foodseg.prepare.findings import Finding

# of `mask_orientation.stored_evidence`: enough alone; enough where the others of the source do not contradict
CLEAR, USABLE = 0.5, 0.2
AGREEING = 0.75  # share of a source's usable evidence that has to agree to decide the unclear masks

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolution:
    """What the records of a data set have decided together.

    Attributes:
        majority: per source 1 where its masks were drawn as stored, -1 as shown; without an entry they do not agree.
        ignored_is_food: why 255 is read as the only ingredient; None = it is not.
    """

    majority: dict[str, int]
    ignored_is_food: str | None

    def resolved(self, each: RecordFacts | Refusal) -> RecordFacts | Refusal:
        """Returns a record with its turn and the meaning of its ignored pixels decided, which may let it pass."""
        facts = facts_of(each)
        if facts is None:
            return each
        if facts.stored_evidence is not None:
            facts = _turned(facts, self.majority.get(facts.record.source, 0))
            each = facts if isinstance(each, RecordFacts) else replace(each, findings=facts.findings, facts=facts)
        return each if self.ignored_is_food is None or not facts.ignored_pixels else _fed(facts, self.ignored_is_food)


class Evidence:
    """Counts what audited records say about the others of their data set."""

    def __init__(self) -> None:
        self._votes: Counter[str] = Counter()
        self._as_stored: Counter[str] = Counter()
        self._ignoring = 0
        self._labelled = self._unknown = False

    def add(self, each: RecordFacts | Refusal) -> None:
        """Counts one record."""
        self._unknown = self._unknown or any(finding.name == "unknown_id" for finding in each.findings)
        facts = facts_of(each)
        if facts is None:
            return
        self._labelled = self._labelled or bool(facts.class_pixels[1:].any())
        self._ignoring += facts.ignored_pixels > 0
        if facts.stored_evidence is not None and abs(facts.stored_evidence) >= USABLE:
            self._votes[facts.record.source] += 1
            self._as_stored[facts.record.source] += facts.stored_evidence > 0

    def resolution(self, classes: ClassTable) -> Resolution:
        """Decides, once all records are counted. A decision about 255 is logged."""
        majority = {}
        for source, votes in self._votes.items():
            stored = self._as_stored[source] / votes
            if stored >= AGREEING or stored <= 1 - AGREEING:
                majority[source] = 1 if stored >= AGREEING else -1
        detail = None
        one_class = len(classes) == 2 and classes.ignore_id == IGNORE_8BIT
        if one_class and self._ignoring and not self._unknown and not self._labelled:
            detail = (
                f"255 is read as id 1, {classes.names[1]!r}: no mask of the data set holds id 1, and there is no other "
                "class"
            )
            _log.warning("%d masks: %s", self._ignoring, detail)
        return Resolution(majority, detail)


def _fed(facts: RecordFacts, detail: str) -> RecordFacts:
    """Returns a record whose ignored pixels are the only ingredient."""
    kept = [finding for finding in facts.findings if finding.name not in ("only_ignored", "all_ignored")]
    return replace(
        facts,
        findings=(*kept, Finding("ignored_is_food", detail)),
        class_pixels=np.array([facts.class_pixels[0], facts.ignored_pixels], np.int32),
        ignored_pixels=0,
        ignored_is_food=True,
    )


def _turned(facts: RecordFacts, majority: int) -> RecordFacts:
    evidence = facts.stored_evidence
    assert evidence is not None
    if facts.mask_turn != 1:  # its size has decided
        return facts
    orientation = facts.orientation
    own = 1 if evidence > 0 else -1
    said = f"mean colour gradient along the outlines: log ratio {evidence:+.2f}"
    if abs(evidence) >= CLEAR:
        way, why = own, said
    elif majority:
        way, why = majority, f"as most masks of its source with an EXIF orientation ({said})"
    else:
        way, why = own if abs(evidence) >= USABLE else 0, said
    if way == 0:
        detail = f"EXIF orientation {orientation}: it is unclear whether the mask fits as shown or as stored ({said})"
        return replace(facts, findings=(*facts.findings, Finding("unclear_turn", detail)))
    if way < 0:
        return facts
    detail = f"the mask was turned by the image's EXIF orientation {orientation}: {why}"
    return replace(facts, mask_turn=orientation, findings=(*facts.findings, Finding("stored_mask", detail)))
