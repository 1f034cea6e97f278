"""The local half of `storage`: files that are replaced in one step, and what errors mean."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from foodseg.errors import MissingFile, UserError

TEMPORARY = ".foodseg-tmp-"  # files that a crash may leave next to the real ones; never listed
NO_SUCH_FILE = "no such file"
TRIES = 10  # where another process deletes a folder, or writes into one that is being deleted
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def mistake(error: Exception) -> str | None:
    """What the user can do where the local end of an upload or a download failed; None where the other end did.

    S3 failures carry no errno, or that of a missing file.
    """
    foreign = (FileNotFoundError, ConnectionError, TimeoutError)
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, foreign):
        return reason(error)
    return None


def reason(error: OSError) -> str:
    """What is wrong with the path, and what would be right."""
    if isinstance(error, FileNotFoundError):
        return NO_SUCH_FILE
    if isinstance(error, IsADirectoryError):
        return "it is a folder, name a file in it"
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        path = Path(error.filename or "a part of it")
        which = next((part for part in (path, *path.parents) if part.is_file()), path)
        return f"{which} is a file, not a folder; name a folder"
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}; give a path that can be read and written and has space left"


@contextlib.contextmanager
def errors(uri: str, verb: str) -> Iterator[None]:
    """Within, an error of a file is a UserError "cannot `verb` `uri`: ..."; MissingFile if it is not there."""
    try:
        yield
    except OSError as error:
        kind = MissingFile if isinstance(error, FileNotFoundError) else UserError
        raise kind(f"cannot {verb} {uri}: {reason(error)}") from error


def create(path: Path, data: bytes) -> bool:
    """Writes a new file, whole or not at all; False if a file is there already. OSError."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(FileNotFoundError):  # another process has just deleted the folder
            return _create(path, data)
    return _create(path, data)


def _create(path: Path, data: bytes) -> bool:
    try:
        with _temporary(path, data) as whole:
            os.link(whole, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_in_place(path, data)  # FAT, and some network file systems
    return True


def _create_in_place(path: Path, data: bytes) -> bool:
    try:
        with path.open("xb") as stream:
            try:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            except BaseException:
                path.unlink()
                raise
    except FileExistsError:
        return False
    return True


def delete_tree(folder: Path) -> None:
    """Deletes a folder with everything in it, also where another process creates or deletes files in it. OSError."""
    for left in reversed(range(TRIES)):
        try:
            shutil.rmtree(folder)
            return
        except OSError as error:
            if not folder.exists():
                return
            if not left or error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise


def replace(path: Path, data: bytes, expected: str) -> bool:
    """Replaces a file whose content has the SHA-256 `expected`; False if it has another, or is gone. OSError.

    The folder is locked meanwhile, so that of several calls one alone succeeds. File systems that cannot lock a folder
    (NFS, some others) have a moment between look and write.
    """
    with _temporary(path, data) as whole, _locked(path.parent):
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return False
        if found != expected:
            return False
        whole.replace(path)
    return True


@contextlib.contextmanager
def _temporary(path: Path, data: bytes) -> Iterator[Path]:
    """A file in the folder of `path` with this content, on disk; it is gone afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that replaces `path` in one step, or leaves it as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
