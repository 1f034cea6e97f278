"""Generations of a prepared data set: each has its own folder, and `dataset.json` names the current one.

    refuse_prepared(uri, overwrite)
    begun = next_generation(uri, overwrite, identity)
    ...                                     # write below <uri>/<begun.folder>, create-only
    switch_to(begun, manifest)              # from here on readers see it

The folder is named after what is prepared (`cluster/shard_plan.py: plan_identity`): the same command finds there what
was done when it was killed, and two commands that prepare different things never write into one folder. Of two with
the same identity each file is written by one of them. dataset.json is replaced only as it was when the command looked
at it: of two that switch at the same moment one looks again. Without `overwrite` the first one wins, with it the last.
"""

import logging
import re
from dataclasses import dataclass

from foodseg import storage
from foodseg.data.shards import Manifest, read_manifest, write_manifest
from foodseg.errors import MissingFile, RetryLater, UserError

WORK = ".work"  # in a generation's folder until it is switched to: results of finished tasks
_DIGITS = 12  # of the identity in the name of a folder
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

    def work(self, stage: str) -> str:
        """Returns the URI of the folder for the results of the tasks of a stage; `switch_to` deletes it."""
        return storage.join(self.where, WORK, stage)


def refuse_prepared(uri: str, overwrite: bool) -> None:
    """Raises UserError where `uri` holds a data set, and `overwrite` is False: before the source is listed."""
    _refuse(uri, _current(uri)[0], overwrite)


def next_generation(uri: str, overwrite: bool, identity: str) -> Generation:
    """Chooses the name of the next generation at `uri`, of what has this identity (hex digits); writes nothing.

    Raises:
        UserError: there is a data set already, and `overwrite` is False.
    """
    before, _ = _current(uri)
    _refuse(uri, before, overwrite)
    # a damaged dataset.json does not name a generation: the folders are counted instead
    last = _number(before) if before else max([0, *map(_number, storage.list_names(uri))]) if before == "" else 0
    return Generation(uri, last + 1, f"v-{last + 1}-{identity[:_DIGITS]}", before, overwrite)


def refuse_superseded(generation: Generation) -> None:
    """Raises what `switch_to` would, where results of finished tasks have gone: it is what `switch_to` deletes.

    Raises:
        UserError, RetryLater: as `switch_to`.
    """
    now, _ = _current(generation.uri)
    _refuse_other(generation, now)
    raise _deleted(generation)


def _refuse_other(generation: Generation, now: str | None) -> None:
    """Refuses to go on where dataset.json names what another command has prepared, unless it may be overwritten."""
    if now is None or now == generation.replaces or generation.overwrite:
        return
    same = now == generation.folder  # the other has prepared the same, in this folder
    storage.delete(storage.join(generation.where, WORK) if same else generation.where)
    raise UserError(
        f"{storage.redact(generation.uri)} has been prepared by another command meanwhile, and stays as that one wrote "
        "it: give --overwrite to write its next generation"
    )


def _deleted(generation: Generation) -> RetryLater:
    return RetryLater(f"another command has deleted files of {storage.redact(generation.where)}: prepare again")


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
        _refuse_other(generation, now)
        if now is not None and now not in (generation.replaces, generation.folder):
            _log.warning(
                "%s has been switched to %s by another command meanwhile: %s replaces it",
                shown, now, generation.folder,
            )  # fmt: skip
        folders = {shard.path.rpartition("/")[0] for shard in manifest.shards}
        there = {f"{folder}/{name}" for folder in folders for name in storage.list_names(storage.join(uri, folder))}
        if not {shard.path for shard in manifest.shards} <= there:
            storage.delete(storage.join(generation.where, WORK))  # else they would count as done
            raise _deleted(generation)
        written = write_manifest(uri, manifest, replaces=version)
    storage.delete(storage.join(generation.where, WORK))
    # the one before is kept, since a training may still be reading it
    for name in storage.list_names(uri):
        if _FOLDER.fullmatch(name) and (_number(name) < generation.number - 1 or _abandoned(name, generation)):
            storage.delete(storage.join(uri, name))


def _abandoned(folder: str, generation: Generation) -> bool:
    """True for what was begun of another source and can no longer be switched to: it may hold a copy of all images."""
    return not generation.overwrite and _number(folder) == generation.number and folder != generation.folder


def _refuse(uri: str, current: str | None, overwrite: bool) -> None:
    if current is not None and not overwrite:
        raise UserError(
            f"{storage.redact(uri)} holds a prepared data set already: give --overwrite to write its next generation"
        )


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
