"""Generations of a prepared data set: each has its own folder, and `dataset.json` names the current one.

    begun = next_generation(uri, overwrite)
    ...                                     # write below <uri>/<begun.folder>
    switch_to(begun, manifest)              # from here on readers see it

Two commands that prepare the same data set at the same time never write into one folder, so that their files cannot
mix. dataset.json is replaced only as it was when the command looked at it: of two that switch at the same moment one
looks again. Without `overwrite` the first one wins, with it the last one.
"""

import logging
import re
import uuid
from dataclasses import dataclass

from foodseg import storage
from foodseg.data.shards import Manifest, read_manifest, write_manifest
from foodseg.errors import MissingFile, RetryLater, UserError

_FOLDER = re.compile(r"v-(\d+)(?:-[0-9a-f]+)?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generation:
    """A generation that is being written. `replaces`: the folder that dataset.json named when it began, if any."""

    uri: str
    number: int
    folder: str
    replaces: str | None
    overwrite: bool

    @property
    def where(self) -> str:
        """URI of the folder."""
        return storage.join(self.uri, self.folder)


def next_generation(uri: str, overwrite: bool) -> Generation:
    """Chooses the name of the next generation at `uri`; writes nothing.

    Raises:
        UserError: there is a data set already, and `overwrite` is False.
    """
    before, _ = _current(uri)
    if before is not None and not overwrite:
        raise UserError(
            f"{storage.redact(uri)} holds a prepared data set already: give --overwrite to write its next generation"
        )
    # a damaged dataset.json does not name a generation: the folders are counted instead
    last = _number(before) if before else max([0, *map(_number, storage.list_names(uri))]) if before == "" else 0
    return Generation(uri, last + 1, f"v-{last + 1}-{uuid.uuid4().hex[:8]}", before, overwrite)


def switch_to(generation: Generation, manifest: Manifest) -> None:
    """Makes a generation the current one, and deletes those that nobody can be reading any more.

    Raises:
        UserError: another command has prepared the data set meanwhile, and `overwrite` is False: this generation is
            then deleted.
        RetryLater: another command has deleted files of this generation.
    """
    uri, shown = generation.uri, storage.redact(generation.uri)
    written = False
    while not written:
        now, version = _current(uri)
        if now is not None and now != generation.replaces:
            if not generation.overwrite:
                storage.delete(generation.where)
                raise UserError(
                    f"{shown} has been prepared by another command meanwhile, and stays as that one wrote it: give "
                    "--overwrite to write its next generation"
                )
            _log.warning(
                "%s has been switched to %s by another command meanwhile: %s replaces it", shown, now, generation.folder
            )
        folders = {shard.path.rpartition("/")[0] for shard in manifest.shards}
        there = {f"{folder}/{name}" for folder in folders for name in storage.list_names(storage.join(uri, folder))}
        if not {shard.path for shard in manifest.shards} <= there:
            raise RetryLater(f"another command has deleted files of {storage.redact(generation.where)}: prepare again")
        written = write_manifest(uri, manifest, replaces=version)
    # the one before is kept, since a training may still be reading it
    for name in storage.list_names(uri):
        if _FOLDER.fullmatch(name) and _number(name) < generation.number - 1:
            storage.delete(storage.join(uri, name))


def _current(uri: str) -> tuple[str | None, str | None]:
    """Returns the folder that dataset.json names, "" if it is damaged, and the file's version; None, None without."""
    try:
        _, version = storage.read_versioned(storage.join(uri, "dataset.json"))
    except MissingFile:
        return None, None
    try:
        return read_manifest(uri).folder, version
    except UserError:
        return "", version


def _number(folder: str) -> int:
    found = _FOLDER.fullmatch(folder)
    return int(found.group(1)) if found else 0
