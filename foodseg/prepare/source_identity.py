"""Identifies what a listing lists: records, label space, and size and time of every file, without opening one.

    source_parts(classes, listed)        # for cluster/shard_plan.py: plan_identity

A file that was replaced between a killed `data prepare` and the next one makes it start afresh: otherwise a shard
could hold an image that the audit has not seen. On the hub the URIs name a commit, which does not change.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.prepare.record import Record
from foodseg.prepare.record_batches import RecordBatches


def source_parts(classes: ClassTable, listed: RecordBatches) -> Iterator[str]:
    """Yields texts that are equal where the same records would be read from the same files.

    Raises:
        UserError, RetryLater: a folder cannot be listed.
    """
    yield repr(classes.names)
    yield from map(repr, listed.records())
    yield from _stamps(listed.records())


def _stamps(records: Iterable[Record]) -> Iterator[str]:
    """Yields the folders of all files, each with the stamps of what is in it that is read."""
    names: dict[str, set[str]] = {}
    for record in records:
        for uri in _uris(record):
            if not storage.is_hub(uri):
                path, mark, query = uri.partition("?") if uri.startswith("s3://") else (uri, "", "")
                folder, _, name = path.rpartition("/")
                names.setdefault(folder + mark + query, set()).add(name)
    for folder in sorted(names):
        yield folder
        stamps = storage.list_stamps(folder)
        yield from (f"{name} {stamps.get(name)}" for name in sorted(names[folder]))


def _uris(part: object) -> Iterator[str]:
    """Yields the field `uri` of a record's image and mask, in whichever of the formats' types it is."""
    if dataclasses.is_dataclass(part):
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if field.name == "uri":
                yield value
            else:
                yield from _uris(value)
