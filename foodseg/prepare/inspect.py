"""Describes a prepared data set: counts, classes, names that are easily confused, and what its audit found.

    result = inspect_data("s3://bucket/meals", "inspect-meals")

Reads the manifest, quarantine and findings, some small columns, and the few images that it shows.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import partial
from itertools import combinations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from foodseg import storage
from foodseg.classes import BACKGROUND
from foodseg.data.reader import RowReader
from foodseg.data.shards import Manifest, SplitCounts, read_findings, read_manifest, read_quarantine
from foodseg.errors import MissingFile
from foodseg.models.text.class_embeddings import closest_pairs, read_table
from foodseg.prepare.contact_sheet import MEALS_SHEET, PAIRS_SHEET, draw_meals_contact_sheet, draw_pairs_contact_sheet
from foodseg.prepare.findings import FINDINGS
from foodseg.prepare.inspection import (
    AuditCount,
    ClassCounts,
    ClassSummary,
    Inspection,
    Rows,
    SharedGroups,
    SimilarClasses,
    SourceSummary,
    SplitSummary,
    Verified,
)
from foodseg.prepare.verify_shards import verify_shards
from foodseg.storage.outputs import claim_outputs

CLOSEST = 10
EXAMPLES = 3  # of each kind of finding
LISTED = 10  # refused records that are printed; JSON has them all


def inspect_data(uri: str, out: str | None, text: str | None = None, *, verify: bool = False) -> Inspection:
    """Describes the prepared data set at `uri` and writes contact_sheet.png and near_duplicates.png.

    Args:
        out: folder for the images, local or s3://; None = ./inspect-<name of the data set>.
        text: table of text embeddings, as `foodseg data embed` writes it, for `closest_embeddings`.
        verify: first compare every shard with its sha256 in `dataset.json`.

    Raises:
        UserError: no prepared data set at `uri`, `text` is not a table of its names, or `out` cannot be written or
            holds files of others by these names.
        DataRefused: `verify` found shards that are not those of `dataset.json`.
    """
    manifest = read_manifest(uri)
    verified = Verified(len(manifest.shards), verify_shards(uri, manifest)) if verify else None
    table = read_table(text, manifest.class_table) if text is not None else None
    out = out or "inspect-" + "".join(c if c.isalnum() or c in "._-" else "_" for c in manifest.name)
    try:
        findings = read_findings(uri, manifest.folder)
        quarantine = read_quarantine(uri, manifest.folder)
    except MissingFile:
        findings, quarantine = None, None
    reader = RowReader(uri, manifest, list(manifest.counts))
    splits = [split for split, counts in manifest.counts.items() for _ in range(counts.images)]
    known = reader.columns(["group_id", "source"])
    groups = known.column("group_id").to_pylist()
    classes = _class_table(manifest)
    pairs = [row for row in findings or [] if row["finding"] == "near_duplicate"]
    with claim_outputs(out, [MEALS_SHEET, *([PAIRS_SHEET] if pairs else [])], by="data inspect"):
        sheets = {"contact_sheet": draw_meals_contact_sheet(reader, splits, manifest.class_table, out)}
        if pairs:
            sheets["near_duplicates"] = draw_pairs_contact_sheet(reader, groups, pairs, out)
    trained = manifest.trained_ids([split for split in manifest.counts if split == "train"])
    return Inspection(
        data=manifest.identity,
        uri=storage.redact(uri),
        ids=len(manifest.classes),
        ignore_id=manifest.ignore_id,
        splits={split: _split(counts) for split, counts in manifest.counts.items()},
        sources=_sources(manifest, known.column("source").to_pylist()),
        class_table=classes,
        never_in_train=tuple(sorted(row.id for row in classes if row.id not in trained)),
        closest_names=closest_names(manifest.classes),
        closest_embeddings=None if table is None else closest_pairs(table.embeddings, manifest.classes, CLOSEST),
        shared_groups=shared_groups(groups, splits),
        audit=_audit(manifest, findings or []),
        findings=findings,
        quarantine=quarantine,
        images=sheets,
        verified=verified,
    )


def _split(counts: SplitCounts) -> SplitSummary:
    return SplitSummary(
        images=counts.images,
        unlabelled=counts.unlabelled,
        groups=counts.groups,
        pixels=sum(counts.class_pixels),
        ignored_pixels=counts.ignored_pixels,
        ignored_share=counts.ignored_share,
    )


def closest_names(names: Sequence[str]) -> tuple[SimilarClasses, ...]:
    """Returns the CLOSEST pairs of class names most easily confused, background left out.

    The similarity of two names, 0 to 1, is the mean of difflib's ratio of their letters and of the share of words that
    they have in common, both in lower case: "fried tempeh" and "battered fried tempeh" have 0.73 and 2 of 3.
    """
    lower = [name.lower() for name in names]
    words = [set(name.split()) for name in lower]
    best: list[tuple[float, int, int]] = []
    for a, b in combinations(range(BACKGROUND + 1, len(names)), 2):
        shared = len(words[a] & words[b]) / max(1, len(words[a] | words[b]))
        matcher = SequenceMatcher(None, lower[a], lower[b], autojunk=False)
        # most pairs are out by their lengths or letters alone, which is far cheaper to see
        for ratio in (matcher.real_quick_ratio, matcher.quick_ratio, matcher.ratio):
            similarity = (ratio() + shared) / 2
            if len(best) == CLOSEST and (similarity, -a, -b) <= best[0]:
                break
        else:
            (heapq.heappushpop if len(best) == CLOSEST else heapq.heappush)(best, (similarity, -a, -b))
    return tuple(
        SimilarClasses((-a, -b), (names[-a], names[-b]), round(similarity, 3))
        for similarity, a, b in sorted(best, reverse=True)
    )


def shared_groups(groups: Sequence[str], splits: Sequence[str]) -> tuple[SharedGroups, ...]:
    """Counts for each two splits how many images of one have near-duplicates in the other, through groups."""
    inside = {split: Counter(g for g, s in zip(groups, splits, strict=True) if s == split) for split in set(splits)}
    return tuple(
        SharedGroups(split, other, images)
        for split in ("test", "val", "train")
        for other in ("train", "val", "test")
        if split != other and split in inside and other in inside
        if (images := sum(count for group, count in inside[split].items() if group in inside[other]))
    )


def _class_table(manifest: Manifest) -> tuple[ClassSummary, ...]:
    total = sum(sum(counts.class_pixels) for counts in manifest.counts.values())
    table = []
    for index, name in enumerate(manifest.classes):
        splits = {
            split: ClassCounts(counts.class_images[index], counts.class_pixels[index])
            for split, counts in manifest.counts.items()
        }
        images, pixels = (sum(getattr(each, what) for each in splits.values()) for what in ("images", "pixels"))
        table.append(ClassSummary(index, name, images, pixels, pixels / total if total else 0.0, splits))
    return tuple(sorted(table, key=lambda row: (-row.pixels, row.id)))


def _sources(manifest: Manifest, sources: Sequence[str]) -> dict[str, SourceSummary]:
    counts = Counter(sources)
    return {source: SourceSummary(counts[source], ids) for source, ids in manifest.annotated.items()}


def _audit(manifest: Manifest, findings: Rows) -> tuple[AuditCount, ...]:
    return tuple(
        AuditCount(
            name,
            FINDINGS[name].effect,
            FINDINGS[name].text,
            manifest.audit[name],
            [row for row in findings if row["finding"] == name][:EXAMPLES],
        )
        for name in FINDINGS
        if name in manifest.audit
    )


def show_inspection(result: Inspection) -> None:
    """Prints what `inspect_data` returned, for people."""
    console = Console(highlight=False)
    say = partial(console.print, markup=False, soft_wrap=True)
    say(f"{result.data} at {result.uri}: {result.ids} ids, {result.ignore_id} = ignored")
    if (verified := result.verified) is not None:
        say(f"  all {verified.shards:,} shards ({verified.bytes:,} bytes) are those that dataset.json lists")
    for split, counts in result.splits.items():
        unlabelled = f", {counts.unlabelled} of them without mask" if counts.unlabelled else ""
        ignored = f", {counts.ignored_share:.1%} of the pixels ignored" if counts.ignored_pixels else ""
        groups = f"in {counts.groups:,} near-duplicate groups"
        say(f"  {split:5} {counts.images:,} images{unlabelled} {groups}{ignored}")
    for source, about in result.sources.items():
        ids = "every id" if about.annotated is None else f"{len(about.annotated)} of {result.ids} ids"
        say(f"  source {source!r}: {about.images:,} images, {ids} annotated")
    console.print(_printed_classes(result))
    names = {row.id: row.name for row in result.class_table}
    if result.never_in_train:
        say("never in train: " + ", ".join(f"{index} {names[index]}" for index in result.never_in_train))
    say("\nclosest class names:")
    for pair in result.closest_names:
        say(f"  {pair.similarity:.2f}  {pair.names[0]} | {pair.names[1]}")
    if result.closest_embeddings is not None:
        say("\nclosest text embeddings:")
        for first, second, cosine in result.closest_embeddings:
            say(f"  {cosine:.2f}  {first} | {second}")
    say("\nnear-duplicates that splits share:" + ("" if result.shared_groups else " none"))
    for row in result.shared_groups:
        say(f"  {row.images:,} images of {row.split} have one in {row.other}")
    _show_audit(result, say)
    for name, where in result.images.items():
        say(f"{name}: {where}")


def _printed_classes(result: Inspection) -> Table:
    splits = list(result.splits)
    table = Table(title="classes", title_justify="left")
    table.add_column("id", justify="right")
    table.add_column("name", overflow="fold")
    for title in (*splits, "images", "pixels", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.class_table:
        per_split = [f"{row.splits[split].images:,}" for split in splits]
        share = "< 0.01 %" if 0 < row.share < 0.0001 else f"{100 * row.share:.2f} %"
        counts = (f"{row.images:,}", f"{row.pixels:,}", share)
        table.add_row(str(row.id), escape(row.name), *per_split, *counts)
    return table


def _show_audit(result: Inspection, say: Callable[..., None]) -> None:
    if result.findings is None:
        say("\naudit: this data set was written without findings; prepare it again to have them")
        return
    say("\naudit:" + ("" if result.audit else " nothing to note"))
    for row in result.audit:
        say(f"  {row.count:,} {row.finding} ({row.effect}): {row.meaning}")
        for example in row.examples:
            say(f"      {example['image_id']} of {example['split']}: {example['detail']}")
    quarantine = result.quarantine or ()
    say(f"\nrefused: {len(quarantine):,} records")
    for refused in quarantine[:LISTED]:
        say(f"  {refused['image_id']} of {refused['split']}: {refused['reason']}")
    if len(quarantine) > LISTED:
        say(f"  ... and {len(quarantine) - LISTED:,} more: see --json")
