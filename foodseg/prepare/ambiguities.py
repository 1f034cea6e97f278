"""Decides what one record leaves open from the others of its data set: how masks are turned, and what 255 means.

    audited = resolve_ambiguities(audited, classes)      # before splits are made

A tool draws all its masks on the image as shown, or all on the image as stored. Where no mask of a data set with one
ingredient holds its id, but many hold 255, 255 means that ingredient: read as "ignored" it would leave nothing to
learn.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from foodseg.classes import IGNORE_8BIT, ClassTable
from foodseg.prepare.audit import RecordFacts, Refusal
from foodseg.prepare.findings import Finding

# of `mask_orientation.stored_evidence`: enough alone; enough where the others of the source do not contradict
CLEAR, USABLE = 0.5, 0.2
AGREEING = 0.75  # share of a source's usable evidence that has to agree to decide the unclear masks

_log = logging.getLogger(__name__)


def resolve_ambiguities(audited: Sequence[RecordFacts | Refusal], classes: ClassTable) -> list[RecordFacts | Refusal]:
    """Returns the records in the same order, with their turns and the meaning of their ignored pixels decided."""
    return resolve_ignored(resolve_mask_orientations(audited), classes)


def resolve_mask_orientations(audited: Sequence[RecordFacts | Refusal]) -> list[RecordFacts | Refusal]:
    """Turns masks that were drawn on the stored pixels; adds a finding where it is unclear whether they were."""
    votes: dict[str, list[float]] = defaultdict(list)
    for each in audited:
        facts = _facts(each)
        if facts is not None and facts.stored_evidence is not None and abs(facts.stored_evidence) >= USABLE:
            votes[facts.record.source].append(facts.stored_evidence)
    majority = {source: _majority(own) for source, own in votes.items()}
    resolved: list[RecordFacts | Refusal] = []
    for each in audited:
        facts = _facts(each)
        if facts is not None and facts.stored_evidence is not None:
            turned = _turned(facts, majority.get(facts.record.source, 0))
            each = turned if isinstance(each, RecordFacts) else replace(each, findings=turned.findings, facts=turned)
        resolved.append(each)
    return resolved


def resolve_ignored(audited: Sequence[RecordFacts | Refusal], classes: ClassTable) -> list[RecordFacts | Refusal]:
    """Reads 255 as the only ingredient where no mask holds the ingredient's id."""
    facts = [one for each in audited if (one := _facts(each)) is not None]
    unknown = any(finding.name == "unknown_id" for each in audited for finding in each.findings)
    labelled = any(one.class_pixels[1:].any() for one in facts)
    ignoring = [one for one in facts if one.ignored_pixels]
    if len(classes) != 2 or classes.ignore_id != IGNORE_8BIT or unknown or labelled or not ignoring:
        return list(audited)
    detail = (
        f"255 is read as id 1, {classes.names[1]!r}: no mask of the data set holds id 1, and there is no other class"
    )
    _log.warning("%d masks: %s", len(ignoring), detail)
    resolved: list[RecordFacts | Refusal] = []
    for each in audited:
        one = _facts(each)
        if one is not None and one.ignored_pixels:
            kept = [finding for finding in one.findings if finding.name not in ("only_ignored", "all_ignored")]
            each = replace(
                one,
                findings=(*kept, Finding("ignored_is_food", detail)),
                class_pixels=np.array([one.class_pixels[0], one.ignored_pixels], np.int32),
                ignored_pixels=0,
                ignored_is_food=True,
            )
        resolved.append(each)
    return resolved


def _facts(each: RecordFacts | Refusal) -> RecordFacts | None:
    return each if isinstance(each, RecordFacts) else each.facts


def _majority(evidence: Sequence[float]) -> int:
    """Returns 1 where a source's masks were drawn as stored, -1 as shown, 0 where they do not agree."""
    stored = sum(value > 0 for value in evidence) / len(evidence)
    return 1 if stored >= AGREEING else -1 if stored <= 1 - AGREEING else 0


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
