"""The files of a checkpoint as files of this machine, each read and verified once, whoever asks how often.

    with local_files(uri, read_manifest_file(uri)) as file:
        weights = safetensors.torch.load_file(file("model.safetensors"))

Processes of one machine share a folder of their user below the temporary folder (TMPDIR), `foodseg-<uid>/checkpoints`.
Of a checkpoint in object storage it holds the files that were asked for: the first process downloads and verifies
one while the others wait for it. A file on a local disk is verified where it is, and a note in the folder says that it
was: another process believes the note for NOTE_SECONDS, as long as the file keeps its inode, size and times.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from foodseg import storage
from foodseg.checkpoint.manifest import CheckpointManifest, FileEntry, TornCheckpoint, entry_of, read_manifest_file
from foodseg.errors import MissingFile, UserError

KEEP = 3  # copies of checkpoints on one machine; the one that was used longest ago is removed first
NOTE_SECONDS = 24 * 3600.0
SETTLED_SECONDS = 2.0  # a file that was changed later may change again without another time


def verify_checkpoint(uri: str) -> CheckpointManifest:
    """Verifies every file of the directory against its manifest, which is returned.

    Raises:
        TornCheckpoint: naming the first file that is missing or differs.
        UserError: it has another format, may not be read, or finds no space on this machine.
    """
    manifest = read_manifest_file(uri)
    # a file that this machine has a copy of may have been deleted since
    missing = manifest.files.keys() - set(storage.list_names(uri))
    if missing:
        raise _torn(uri, f"{min(missing)} is missing")
    with local_files(uri, manifest) as file:
        for name in manifest.files:
            file(name)
    return manifest


@contextlib.contextmanager
def local_files(uri: str, manifest: CheckpointManifest) -> Iterator[Callable[[str], Path]]:
    """Gives a function that returns the path of a verified file of the checkpoint, by its name.

    A path is good until the end of the body; what was opened or mapped before stays good. Those files must not be
    written to.

    The function raises:
        TornCheckpoint: the file is missing or differs from its manifest.
        UserError: it may not be read, or finds no space on this machine.
    """
    if storage.is_local(uri):
        yield lambda name: _verified_in_place(uri, name, manifest.files[name])
        return
    with _locked(_folder() / _key(uri, manifest)) as folder:
        _remove_older(folder)
        for part in folder.glob(".*"):  # of a process that was killed
            part.unlink(missing_ok=True)
        yield lambda name: _copied(uri, name, manifest.files[name], folder)


def _verified_in_place(uri: str, name: str, entry: FileEntry) -> Path:
    path = Path(storage.absolute(uri), name)
    try:
        found = path.stat()
        note = _note(path, found, entry)
        if note is None or not note.exists() or _expired(note):
            _verify(uri, name, entry, path)
            if note is not None and time.time() - max(found.st_mtime, found.st_ctime) > SETTLED_SECONDS:
                with contextlib.suppress(OSError):
                    _remove_notes(note.parent)
                    note.touch()
    except FileNotFoundError:
        raise _torn(uri, f"{name} is missing") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    return path


def _note(path: Path, found: os.stat_result, entry: FileEntry) -> Path | None:
    """Returns where it is noted that this very file was verified; None without a folder for notes."""
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    with contextlib.suppress(UserError):  # the file is then verified once more
        return _folder("verified") / hashlib.sha256(repr((path, identity, entry)).encode()).hexdigest()
    return None


def _copied(uri: str, name: str, entry: FileEntry, folder: Path) -> Path:
    """Returns the copy of a file; it gets its name only once it is verified."""
    path, part = folder / name, folder / f".{name}"
    if path.exists() and path.stat().st_size == entry.size:
        return path
    free = shutil.disk_usage(folder).free
    if free < entry.size:
        raise UserError(
            f"no space for a copy of {storage.redact(storage.join(uri, name))} in {folder}: it takes "
            f"{entry.size / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free; set TMPDIR to a folder with more"
        )
    try:
        storage.download(storage.join(uri, name), part)
        _verify(uri, name, entry, part)
        part.replace(path)
    except MissingFile:
        raise _torn(uri, f"{name} is missing") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; set TMPDIR to another folder") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def _verify(uri: str, name: str, entry: FileEntry, path: Path) -> None:
    size = path.stat().st_size
    if size != entry.size:
        raise _torn(uri, f"{name} has {size} bytes, not {entry.size}")
    if entry_of(path) != entry:
        raise _torn(uri, f"the content of {name} does not match its sha256")


def _torn(uri: str, reason: str) -> TornCheckpoint:
    return TornCheckpoint(f"the checkpoint {storage.redact(uri)} is torn: {reason}")


def _key(uri: str, manifest: CheckpointManifest) -> str:
    """Differs with the content of any file: a directory that was written again is another checkpoint."""
    return hashlib.sha256(repr((storage.absolute(uri), sorted(manifest.files.items()))).encode()).hexdigest()


def _folder(kind: str = "checkpoints") -> Path:
    """Returns a folder of this machine that only this user can write to."""
    root = Path(tempfile.gettempdir(), f"foodseg-{os.getuid()}")
    try:
        root.mkdir(mode=0o700, exist_ok=True)
        found = root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise UserError(f"{root} can be written by other users: remove it, or set TMPDIR to another folder")
        (root / kind).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write {root}: {error.strerror or error}; set TMPDIR to a folder that can be written"
        ) from None
    return root / kind


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[Path]:
    """Within, this process alone uses the folder, which is made. BlockingIOError: in use, without `wait`."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if folder.exists() and folder.stat().st_ino == os.fstat(handle).st_ino:
                os.utime(folder)
                yield folder
                return
        finally:  # it was removed while this process waited for it, or is done with
            fcntl.flock(handle, fcntl.LOCK_UN)  # a forked child may hold the handle too
            os.close(handle)


def _remove_older(used: Path) -> None:
    with contextlib.suppress(OSError):  # another process removes them too
        others = sorted(used.parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in others[KEEP:]:
            with contextlib.suppress(BlockingIOError), _locked(folder, wait=False):
                shutil.rmtree(folder)


def _remove_notes(folder: Path) -> None:
    for note in folder.iterdir():
        if _expired(note):
            note.unlink(missing_ok=True)


def _expired(note: Path) -> bool:
    return note.stat().st_mtime <= time.time() - NOTE_SECONDS
