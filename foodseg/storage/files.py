"""One way to reach a file wherever it lives: a plain path, `file://` or `s3://bucket/key` (how: see `uris`).

Only URIs travel between processes, never clients. A storage server may restart in mid-run: every S3 operation is tried
again for a while (`s3_client`), then gives `RetryLater`. A mistake (missing file or bucket, wrong key, unreachable
endpoint, full disk) is a `UserError` at once.

    storage.write_text("s3://runs/r1/note.txt", "hello"); storage.read_text("s3://runs/r1/note.txt")
"""

import json
import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow

from foodseg.errors import MissingFile
from foodseg.storage import local, s3, s3_client
from foodseg.storage.conditional import create_bytes, read_versioned, replace_bytes
from foodseg.storage.s3_client import with_retries
from foodseg.storage.text_files import decode_text
from foodseg.storage.uris import absolute, is_local, redact

CHUNK = 8 << 20
CHANGED_READS = 10  # of an object that is replaced again and again


def expect(*uris: str) -> None:
    """Notes that endpoints have answered to another process, so that silence does not count as a wrong address."""
    for uri in uris:
        if not is_local(uri):
            s3_client.expect(uri)


def exists(uri: str) -> bool:
    """True if a file or a folder is there. UserError, RetryLater: storage cannot be asked."""
    if not is_local(uri):
        return with_retries(uri, "look for", s3.exists)
    with local.errors(uri, "look for"):
        try:
            Path(absolute(uri)).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True


def list_names(uri: str) -> list[str]:
    """Sorted names of the direct children; [] if the folder is absent. UserError: a file, a missing bucket."""
    if is_local(uri):
        folder = Path(absolute(uri))
        with local.errors(uri, "list"):
            names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    else:
        names = list(with_retries(uri, "list", partial(s3.entries, recursive=False)))
    return sorted(name for name in names if not name.startswith(local.TEMPORARY))


def list_tree(uri: str) -> list[str]:
    """Sorted paths, parts with "/", of all files below a folder; [] if it is absent. UserError, RetryLater."""
    if is_local(uri):
        with local.errors(uri, "list"):
            paths = _local_tree(Path(absolute(uri)))
    else:
        paths = list(with_retries(uri, "list", partial(s3.entries, recursive=True)))
    return sorted(path for path in paths if not path.rpartition("/")[2].startswith(local.TEMPORARY))


def _local_tree(root: Path) -> list[str]:
    """Follows links to folders, each folder once."""
    paths, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        paths += [Path(folder, name).relative_to(root).as_posix() for name in names]
    return paths


def open_input(uri: str) -> pyarrow.NativeFile:
    """A file for random access, for Parquet readers; on S3 all reads are of one version. UserError, RetryLater."""
    if is_local(uri):
        with local.errors(uri, "read"):
            return pyarrow.OSFile(absolute(uri), "rb")
    return pyarrow.PythonFile(s3.RandomAccessFile(uri), mode="r")


def read_bytes(uri: str) -> bytes:
    """The whole file, as one writer left it. UserError: missing or not allowed. RetryLater: storage does not answer."""
    if is_local(uri):
        with local.errors(uri, "read"):
            return Path(absolute(uri)).read_bytes()
    return with_retries(uri, "read", s3.get)[0]


def read_text(uri: str) -> str:
    """The whole file as text, as `text_files.decode_text`. UserError as `read_bytes`, or not UTF-8."""
    return decode_text(read_bytes(uri), redact(uri))


def download(uri: str, path: Path) -> None:
    """Copy one file to a local path, in chunks; it appears only when complete. UserError, RetryLater."""
    if is_local(uri):
        with local.errors(uri, "read"), Path(absolute(uri)).open("rb") as source, local.replacing(path) as target:
            shutil.copyfileobj(source, target, CHUNK)
        return

    for left in reversed(range(CHANGED_READS)):
        try:
            snapshot = s3.Snapshot(uri, tail=False)
            with local.errors(str(path), "write"), local.replacing(path) as target:
                for piece in snapshot.pieces(0, snapshot.size):
                    target.write(piece)
            return
        except s3.Changed:
            if not left:
                raise


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file in one step: a reader sees the old content or the new, never a part. UserError, RetryLater."""
    if is_local(uri):
        with local.errors(uri, "write"), local.replacing(Path(absolute(uri))) as stream:
            stream.write(data)
    else:
        with_retries(uri, "write", lambda target: s3.put(target, data))


def write_text(uri: str, text: str) -> None:
    """Write UTF-8 text, as `write_bytes`."""
    write_bytes(uri, text.encode("utf-8"))


def write_json(uri: str, obj: Any) -> None:
    """Write a JSON file, indented, as `write_bytes`."""
    write_text(uri, json.dumps(obj, indent=2) + "\n")


def append_line(uri: str, line: str) -> None:
    """Add a line of UTF-8 text at the end of a file, which may be missing. UserError, RetryLater.

    Any number of processes may do so at once. S3 cannot append: the object is read, and written again if it is still
    the same.
    """
    data = f"{line}\n".encode()
    if is_local(uri):
        path = Path(absolute(uri))
        with local.errors(uri, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as stream:  # unbuffered: one write, which O_APPEND makes whole
                stream.write(data)
                os.fsync(stream.fileno())
        return
    written = False
    while not written:
        try:
            before, version = read_versioned(uri)
        except MissingFile:
            written = create_bytes(uri, data)
        else:
            written = replace_bytes(uri, before + data, version)


def upload(path: Path, uri: str) -> None:
    """Copy one local file to a URI, in chunks; the target appears only when complete. UserError, RetryLater."""
    with local.errors(str(path), "read"):
        source = path.open("rb")
    with source:
        if is_local(uri):
            with local.errors(uri, "write"), local.replacing(Path(absolute(uri))) as target:
                shutil.copyfileobj(source, target, CHUNK)
            return

        with_retries(uri, "write", lambda target: s3.send(target, source))


def delete(uri: str) -> None:
    """Remove a file or a whole tree; nothing happens if it is absent. UserError: a whole bucket, no permission."""
    if is_local(uri):
        target = Path(absolute(uri))
        with local.errors(uri, "delete"):
            if target.is_dir() and not target.is_symlink():
                local.delete_tree(target)
            else:
                target.unlink(missing_ok=True)
        return

    with_retries(uri, "delete", s3.delete)
