"""The local half of `storage`: files that are replaced in one step, and what errors mean."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from foodseg.errors import MissingFile, UserError
from foodseg.storage import s3

TEMPORARY = ".foodseg-tmp-"  # files that a crash may leave beside the real ones; never listed


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
        return s3.NO_SUCH_FILE
    if isinstance(error, IsADirectoryError):
        return "it is a folder, name a file in it"
    if isinstance(error, (NotADirectoryError, FileExistsError)):
        return f"{error.filename or 'a part of it'} is a file, not a folder; name a folder"
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
