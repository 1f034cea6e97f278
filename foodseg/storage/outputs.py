"""Output folders that a user names: a command replaces only its own files there, and only where they are unchanged.

    outputs = claim_outputs(out, ["lunch.png", "lunch.json"], by="predict", inputs=["meals/lunch.jpg"])  # refuses
    with outputs:
        outputs.write_bytes("lunch.png", data)

`.foodseg-outputs` in the folder says of every such file which command wrote it, and its SHA-256. It names what will be
written before that is done, so that a command that was killed can be run again.
"""

import contextlib
import hashlib
import json
import shutil
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from foodseg import storage
from foodseg.errors import FoodsegError, UserError

RECORD = ".foodseg-outputs"
FOLDER_MARK = ".foodseg-demo"
_FORMAT = 1
_SHOWN = 3


def folded(name: str) -> str:
    """Returns the form that all names share which some file system takes for the same one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def written_names(folder: str) -> set[str]:
    """Returns the names of the files in a folder that a command wrote there, as its record says.

    Raises:
        UserError: the record is damaged. RetryLater: the storage does not answer.
    """
    return set(_read_record(folder))


def claim_outputs(out: str, names: Sequence[str], *, by: str, inputs: Sequence[str] = ()) -> "Outputs":
    """Checks that `names` may be written into a folder; nothing is written before the result is entered.

    Names that differ in case alone are one: they are the same file on macOS and Windows.

    Args:
        out: folder or URI; it may be missing. names: of the files that may be written, each once.
        by: the command that writes. inputs: files or URIs that it reads.

    Raises:
        UserError: one of the names is an input, or a file that `by` did not write or that was changed since;
            `out` is a file, or its record is damaged. RetryLater: the storage does not answer.
    """
    too_long = next((name for name in names if len(name.encode()) > 255), None)
    if too_long is not None:
        raise UserError(f"--out: the name {too_long[:60]}... is longer than the 255 bytes of a file system: rename it")
    present: dict[str, list[str]] = defaultdict(list)
    for name in storage.list_names(out):
        present[folded(name)].append(name)
    record = _read_record(out) if RECORD in present else {}
    read = {_identity(uri) for uri in inputs}
    shown, foreign = storage.redact(out), []
    for name in names:
        for found in present.get(folded(name), ()):
            where = storage.join(out, found)
            if _identity(where) in read:
                raise UserError(
                    f"--out {shown} holds {found}, which is read here and would be replaced by a result: "
                    "name another folder"
                )
            if found != name or not _is_own(where, record.get(name), by):
                foreign.append(found)
    if foreign:
        more = f", and {len(foreign) - _SHOWN} others" if len(foreign) > _SHOWN else ""
        are, them, were = ("is", "it", "it was") if len(foreign) == 1 else ("are", "them", "they were")
        raise UserError(
            f"--out {shown}: {', '.join(foreign[:_SHOWN])}{more} {are} there already, and `foodseg {by}` did not write "
            f"{them}, or {were} changed since: name another folder, or move {them} away"
        )
    return Outputs(out, by, names, {name: record.get(name) for name in names})


class Outputs:
    """Names in a folder that a command may write, from `claim_outputs`; within `with` they are written."""

    def __init__(self, out: str, by: str, names: Sequence[str], before: dict[str, dict[str, Any] | None]) -> None:
        self._out, self._by, self._names, self._before = out, by, names, before
        self._digests: dict[str, str] = {}

    def write_bytes(self, name: str, data: bytes) -> str:
        """Writes one of the names; returns where it is. UserError, RetryLater."""
        assert name in self._before, name
        where = storage.join(self._out, name)
        storage.write_bytes(where, data)
        self._digests[name] = hashlib.sha256(data).hexdigest()
        return where

    def __enter__(self) -> "Outputs":
        # of a file without a digest it is not known whether it was written to its end
        self._note({name: {"by": self._by, "sha256": None} for name in self._names})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # an error of the body comes first: the user has to see that one
        with contextlib.suppress(FoodsegError) if kind is not None else contextlib.nullcontext():
            present = set(storage.list_names(self._out))
            entries: dict[str, dict[str, Any] | None] = {}
            for name in self._names:
                if name not in present:
                    entries[name] = None
                elif name in self._digests:
                    entries[name] = {"by": self._by, "sha256": self._digests[name]}
                else:  # written past `write_bytes`, or not this time
                    entries[name] = {"by": self._by, "sha256": _digest(storage.join(self._out, name))}
            self._note(entries)

    def _note(self, entries: dict[str, dict[str, Any] | None]) -> None:
        """Changes the record of these names alone; None takes one out."""
        record = {**_read_record(self._out), **entries}
        kept = {name: entry for name, entry in sorted(record.items()) if entry is not None}
        where = storage.join(self._out, RECORD)
        if kept:
            storage.write_json(where, {"format": _FORMAT, "files": kept})
        else:
            storage.delete(where)


def renew_folder(folder: Path, parts: Sequence[str], inputs: Sequence[str] = ()) -> None:
    """Makes a folder empty that holds nothing but an earlier result of the same kind, and marks it as one.

    Args:
        parts: names that such a result has in the folder. inputs: URIs that must not be in it.

    Raises:
        UserError: it holds something else, or an input.
    """
    mark, whole = folder / FOLDER_MARK, folder.resolve()
    for uri in inputs:
        if storage.is_local(uri) and Path(storage.absolute(uri)).resolve().is_relative_to(whole):
            raise UserError(f"--out {folder} holds {uri}, which is read: name another folder")
    if folder.exists() and any(folder.iterdir()):
        if not mark.is_file():
            raise UserError(f"--out {folder} is not empty and does not hold an earlier result: name another one")
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        listed = mark.read_text(encoding="utf-8").splitlines()  # none where the command did not come to its end
        strange = sorted(
            name
            for name in there - {FOLDER_MARK, *listed}
            if name.rpartition("/")[2] != ".DS_Store" and (listed or name.partition("/")[0] not in parts)
        )
        if strange:
            more = f" and {len(strange) - 1} other files" if len(strange) > 1 else ""
            raise UserError(
                f"--out {folder} holds {strange[0]}{more}, which this command did not write and would delete: move "
                "that away, or name another folder"
            )
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    mark.touch()


def note_folder(folder: Path) -> None:
    """Lists in the mark of a folder from `renew_folder` all files that are in it now: they may be deleted again."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    (folder / FOLDER_MARK).write_text("".join(f"{name}\n" for name in files), encoding="utf-8")


def _read_record(folder: str) -> dict[str, dict[str, Any]]:
    where = storage.join(folder, RECORD)
    if not storage.exists(where):
        return {}
    try:
        record = json.loads(storage.read_text(where))
        files = record["files"] if record["format"] == _FORMAT else None
        if isinstance(files, dict) and all(isinstance(entry, dict) and "by" in entry for entry in files.values()):
            return files
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{storage.redact(where)} is damaged, so nothing says whose files these are: name another folder")


def _is_own(where: str, entry: dict[str, Any] | None, by: str) -> bool:
    if entry is None or entry["by"] != by:
        return False
    if entry.get("sha256") is None:
        return True
    try:
        return _digest(where) == entry["sha256"]
    except UserError:  # a folder, or a link that leads nowhere
        return False


def _digest(where: str) -> str:
    return hashlib.sha256(storage.read_bytes(where)).hexdigest()


def _identity(uri: str) -> object:
    """Returns what two ways to name one file have in common: links are followed, a query does not matter."""
    if not storage.is_local(uri):
        return storage.absolute(uri).partition("?")[0]
    path = storage.absolute(uri)
    try:
        found = Path(path).stat()
    except OSError:
        return path
    return found.st_dev, found.st_ino
