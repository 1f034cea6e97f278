"""Several prepared data sets of one label space, trained on as if they were one.

    manifest = training_manifest(config.data)     # of data.uri, or of all in data.uris
    reader = RowReader(config.data.uri, manifest, ["train"])

Nothing is copied: the concatenated manifest lists the shards of all, each with the URI of its data set. Sources are
prefixed with the name of their data set: sources of one name may annotate different ids.
"""

from collections import Counter
from collections.abc import Sequence

from foodseg import storage
from foodseg.classes import first_difference
from foodseg.config.data import DataConfig
from foodseg.data.shards import FORMAT_VERSION, Manifest, SplitCounts, read_manifest
from foodseg.errors import UserError


def training_manifest(data: DataConfig) -> Manifest:
    """Reads the manifest of `data.uri`, or concatenates those of `data.uris`.

    Raises:
        UserError: no data set at one of them, label spaces differ, or one holds none of the training splits.
    """
    if not data.uris:
        return read_manifest(data.uri)
    uris = [entry.uri for entry in data.uris]
    manifests = [read_manifest(uri) for uri in uris]
    for uri, manifest in zip(uris, manifests, strict=True):
        if not any(shard.split in data.train_splits for shard in manifest.shards):
            have = ", ".join(f"{name} ({counts.images})" for name, counts in manifest.counts.items())
            raise UserError(
                f"data.uris: {storage.redact(uri)} holds no image of data.train_splits {list(data.train_splits)}; "
                f"it has {have}"
            )
    return concat_manifests(uris, manifests)


def concat_manifests(uris: Sequence[str], manifests: Sequence[Manifest]) -> Manifest:
    """Returns one manifest of all shards, in this order, with the sums of the counts.

    Raises:
        UserError: label spaces differ.
    """
    first = manifests[0]
    for uri, other in zip(uris, manifests, strict=True):
        difference = first_difference(first.classes, other.classes)
        if difference is not None:
            index, name, differing = difference
            raise UserError(
                f"data.uris: the label spaces differ: id {index} is {name} in {storage.redact(uris[0])} and "
                f"{differing} in {storage.redact(uri)}; bring one into the other's with `foodseg data map`"
            )
    names = _distinct([manifest.name for manifest in manifests])
    splits = list(dict.fromkeys(split for manifest in manifests for split in manifest.counts))
    return Manifest(
        format_version=FORMAT_VERSION,
        name="+".join(names),
        generation=0,  # those of the data sets are in `members`
        folder="",
        classes=first.classes,
        ignore_id=first.ignore_id,
        annotated={
            f"{name}/{source}": ids
            for name, manifest in zip(names, manifests, strict=True)
            for source, ids in manifest.annotated.items()
        },
        shards=tuple(
            shard.model_copy(update={"uri": uri, "data_set": name})
            for uri, name, manifest in zip(uris, names, manifests, strict=True)
            for shard in manifest.shards
        ),
        counts={split: _sum([m.counts[split] for m in manifests if split in m.counts]) for split in splits},
        quarantined=sum(manifest.quarantined for manifest in manifests),
        audit=dict(sum((Counter(manifest.audit) for manifest in manifests), Counter())),
        members=tuple(manifest.identity for manifest in manifests),
    )


def _distinct(names: Sequence[str]) -> list[str]:
    """Makes the names of data sets unique: a repeated one gets its number in the list."""
    return [name if name not in names[:index] else f"{name}#{index + 1}" for index, name in enumerate(names)]


def _sum(counts: Sequence[SplitCounts]) -> SplitCounts:
    return SplitCounts(
        images=sum(c.images for c in counts),
        unlabelled=sum(c.unlabelled for c in counts),
        groups=sum(c.groups for c in counts),
        class_images=tuple(sum(column) for column in zip(*(c.class_images for c in counts), strict=True)),
        class_pixels=tuple(sum(column) for column in zip(*(c.class_pixels for c in counts), strict=True)),
        ignored_pixels=sum(c.ignored_pixels for c in counts),
    )
