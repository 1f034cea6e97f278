"""One way to reach a file wherever it lives: a plain path, `file://` or `s3://bucket/key`.

Credentials and endpoint come from the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_REGION) or are in the URI: `s3://bucket/p?endpoint_override=127.0.0.1:8333&scheme=http&region=us-east-1`.
Only URIs travel between processes, never filesystems: pyarrow's S3FileSystem loses its retry strategy when pickled.

A storage server may restart in mid-run: every S3 operation is tried again for `RETRY_SECONDS`, then gives `RetryLater`.
A mistake (missing file or bucket, wrong key, unreachable endpoint, full disk) is a `UserError` at once.

    storage.write_text("s3://runs/r1/note.txt", "hello"); storage.read_text("s3://runs/r1/note.txt")
"""

import contextlib
import io
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

import pyarrow
import pyarrow.fs

from foodseg.errors import MissingFile, RetryLater, UserError
from foodseg.storage import local, s3
from foodseg.storage.s3 import redact as redact  # part of this module's interface
from foodseg.storage.text_files import decode_text

RETRY_SECONDS = 90.0
FIRST_CONTACT_SECONDS = 10.0  # an endpoint that never answered is nearly always a wrong one
FIRST_DELAY, LONGEST_DELAY = 0.5, 10.0

_LOG = logging.getLogger("foodseg.storage")
_ANSWERED: set[str] = set()  # endpoints that have answered in this process
T = TypeVar("T")


def absolute(uri: str) -> str:
    """A plain or file:// path as an absolute plain path; an s3 URI as it is, without trailing slash.

    UserError: unknown scheme, s3 without bucket, file:// with a host, ~name of an unknown user.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        try:
            return str(Path(uri).expanduser().absolute())
        except RuntimeError:
            raise UserError(f"{uri}: no home folder is known for {uri.partition('/')[0]}; write the path out") from None
    if scheme == "file":
        parts = urlsplit(uri)
        if parts.netloc not in ("", "localhost"):
            raise UserError(f"{uri}: file:// takes an absolute path with three slashes, such as file:///data/x")
        return str(Path(unquote(parts.path)).absolute())
    if scheme == "s3":
        s3.split(uri)  # refuses a missing bucket and unknown query keys
        location, mark, query = rest.partition("?")
        return f"s3://{location.rstrip('/')}{mark}{query}"
    raise UserError(f"{redact(uri)}: unknown scheme {scheme}://; use a plain path, file:///path or s3://bucket/key")


def without_query(uri: str) -> str:
    """The URI without its query, which only s3:// has: a "?" in a local path is part of a name."""
    return uri.partition("?")[0] if uri.startswith("s3://") else uri


def uri_encoded(uri: str) -> str:
    """The URI with its key percent-encoded, as pyarrow and Ray read URIs; elsewhere in foodseg a key is plain text."""
    whole = absolute(uri)
    if not whole.startswith("s3://"):
        return whole
    location, mark, query = whole.removeprefix("s3://").partition("?")
    host, slash, key = location.partition("/")
    return f"s3://{host}{slash}{quote(key)}{mark}{query}"


def is_local(uri: str) -> bool:
    """True for a plain path and for file://."""
    return not absolute(uri).startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """Append path parts; the query string of an s3 URI stays at the end. UserError: an s3 part with a "?"."""
    whole = absolute(uri)
    names = [part.strip("/") for part in parts]
    if is_local(whole):
        return str(Path(whole, *names))
    if any("?" in name for name in names):
        raise UserError(
            f"{redact(whole)}: the name {'/'.join(names)!r} has a '?', which would begin the query; rename it"
        )
    location, mark, query = whole.partition("?")
    return "/".join([location, *(name for name in names if name)]) + mark + query


def expect(*uris: str) -> None:
    """Notes that endpoints have answered to another process, so that silence does not count as a wrong address."""
    _ANSWERED.update(s3.endpoint_of(uri)[0].url for uri in uris if not is_local(uri))


@contextlib.contextmanager
def retry_for(seconds: float) -> Iterator[None]:
    """Within, this process tries an S3 operation again for `seconds` before it gives RetryLater."""
    global RETRY_SECONDS
    before, RETRY_SECONDS = RETRY_SECONDS, seconds
    try:
        yield
    finally:
        RETRY_SECONDS = before


def _with_retries(uri: str, verb: str, operation: Callable[[pyarrow.fs.FileSystem, str], T]) -> T:
    """Run an S3 operation, again and again while the failure looks temporary. UserError, RetryLater."""
    endpoint, path = s3.endpoint_of(uri)
    began, delay = time.monotonic(), FIRST_DELAY
    while True:
        try:
            result = operation(s3.client(endpoint), path)
        except (OSError, pyarrow.ArrowException) as error:
            text = redact(str(error))
            if "AWS Error" in text and "NETWORK_CONNECTION" not in text:
                _ANSWERED.add(endpoint.url)
            mistake = local.mistake(error) or s3.mistake(error, endpoint, path)
            if mistake:
                kind = MissingFile if mistake == local.NO_SUCH_FILE else UserError
                raise kind(f"cannot {verb} {redact(uri)}: {mistake}") from None
            known = endpoint.url in _ANSWERED
            limit = RETRY_SECONDS if known else min(RETRY_SECONDS, FIRST_CONTACT_SECONDS)
            if time.monotonic() - began + delay > limit:
                where = f"cannot {verb} {redact(uri)}: {endpoint.name}"
                if known:
                    advice = "run the same command again when it is back"
                    raise RetryLater(f"{where} failed for {limit:.0f} s ({s3.reason(text)}); {advice}") from None
                advice = "start that server or correct AWS_ENDPOINT_URL (http or https, host, port)"
                raise UserError(f"{where} is not reachable ({s3.reason(text)}); {advice}") from None
            _LOG.warning("cannot %s %s (%s); trying again in %.1f s", verb, redact(uri), s3.reason(text), delay)
            time.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
        else:
            _ANSWERED.add(endpoint.url)
            return result


def exists(uri: str) -> bool:
    """True if a file or a folder is there. UserError, RetryLater: storage cannot be asked."""
    if is_local(uri):
        with local.errors(uri, "look for"):
            info = pyarrow.fs.LocalFileSystem().get_file_info(absolute(uri))
    else:
        info = _with_retries(uri, "look for", lambda fs, path: fs.get_file_info(path))
    return bool(info.type != pyarrow.fs.FileType.NotFound)


def list_names(uri: str) -> list[str]:
    """Sorted names of the direct children; [] if the folder is absent. UserError: a file, a missing bucket."""
    if is_local(uri):
        folder = Path(absolute(uri))
        with local.errors(uri, "list"):
            names = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    else:

        def children(fs: pyarrow.fs.FileSystem, path: str) -> list[str]:
            found = fs.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
            if not found and fs.get_file_info(path.partition("/")[0]).type == pyarrow.fs.FileType.NotFound:
                raise FileNotFoundError(path)
            return [info.base_name for info in found]

        names = _with_retries(uri, "list", children)
    return sorted(name for name in names if not name.startswith(local.TEMPORARY))


def list_tree(uri: str) -> list[str]:
    """Sorted paths, parts with "/", of all files below a folder; [] if it is absent. UserError, RetryLater."""
    if is_local(uri):
        with local.errors(uri, "list"):
            paths = _local_tree(Path(absolute(uri)))
    else:

        def files(fs: pyarrow.fs.FileSystem, path: str) -> list[str]:
            found = fs.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True, recursive=True))
            return [info.path[len(path) :].strip("/") for info in found if info.is_file]

        paths = _with_retries(uri, "list", files)
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


class _RetryingFile(io.RawIOBase):
    """Random access to one S3 object whose reads outlive a restart of the server."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        self._stream = _with_retries(uri, "read", lambda fs, path: fs.open_input_file(path))
        self._size, self._position = self._stream.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        left = max(0, self._size - self._position)
        count = left if count is None or count < 0 else min(count, left)
        data = _with_retries(self._uri, "read", lambda fs, path: self._stream.read_at(count, self._position))
        self._position += len(data)
        return bytes(data)


def open_input(uri: str) -> pyarrow.NativeFile:
    """A file for random access, for Parquet readers; on S3 its reads are retried too. UserError, RetryLater."""
    if is_local(uri):
        with local.errors(uri, "read"):
            return pyarrow.OSFile(absolute(uri), "rb")
    return pyarrow.PythonFile(_RetryingFile(uri), mode="r")


def read_bytes(uri: str) -> bytes:
    """The whole file, as one writer left it. UserError: missing or not allowed. RetryLater: storage does not answer."""
    if is_local(uri):
        with local.errors(uri, "read"):
            return Path(absolute(uri)).read_bytes()

    return _with_retries(uri, "read", lambda fs, path: s3.get(fs, path, lambda stream: bytes(stream.read())))


def read_text(uri: str) -> str:
    """The whole file as text, as `text_files.decode_text`. UserError as `read_bytes`, or not UTF-8."""
    return decode_text(read_bytes(uri), redact(uri))


def download(uri: str, path: Path) -> None:
    """Copy one file to a local path, in chunks; it appears only when complete. UserError, RetryLater."""
    if is_local(uri):
        with local.errors(uri, "read"), Path(absolute(uri)).open("rb") as source, local.replacing(path) as target:
            shutil.copyfileobj(source, target, s3.CHUNK)
        return

    def fetch(fs: pyarrow.fs.FileSystem, key: str) -> None:
        with local.replacing(path) as target:

            def copy(source: pyarrow.NativeFile) -> None:
                target.seek(0)  # an earlier attempt may have written more
                target.truncate()
                shutil.copyfileobj(source, target, s3.CHUNK)

            s3.get(fs, key, copy)

    _with_retries(uri, "read", fetch)


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file in one step: a reader sees the old content or the new, never a part. UserError, RetryLater."""
    if is_local(uri):
        with local.errors(uri, "write"), local.replacing(Path(absolute(uri))) as stream:
            stream.write(data)
    else:
        _with_retries(uri, "write", lambda fs, path: s3.put(fs, path, io.BytesIO(data)))


def write_text(uri: str, text: str) -> None:
    """Write UTF-8 text, as `write_bytes`."""
    write_bytes(uri, text.encode("utf-8"))


def write_json(uri: str, obj: Any) -> None:
    """Write a JSON file, indented, as `write_bytes`."""
    write_text(uri, json.dumps(obj, indent=2) + "\n")


def append_line(uri: str, line: str) -> None:
    """Add a line of UTF-8 text at the end of a file, which may be missing. UserError, RetryLater.

    On a local disk any number of processes may do so at once. S3 cannot append: the object is read and written again,
    so one of two simultaneous writes is lost.
    """
    data = f"{line}\n".encode()
    if is_local(uri):
        path = Path(absolute(uri))
        with local.errors(uri, "write"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab", buffering=0) as stream:  # unbuffered: one write, which O_APPEND makes whole
                stream.write(data)
                os.fsync(stream.fileno())
    else:
        write_bytes(uri, (read_bytes(uri) if exists(uri) else b"") + data)


def upload(path: Path, uri: str) -> None:
    """Copy one local file to a URI, in chunks; the target appears only when complete. UserError, RetryLater."""
    with local.errors(str(path), "read"):
        source = path.open("rb")
    with source:
        if is_local(uri):
            with local.errors(uri, "write"), local.replacing(Path(absolute(uri))) as target:
                shutil.copyfileobj(source, target, s3.CHUNK)
            return

        def send(fs: pyarrow.fs.FileSystem, key: str) -> None:
            source.seek(0)  # an earlier attempt may have read a part
            s3.put(fs, key, source)

        _with_retries(uri, "write", send)


def delete(uri: str) -> None:
    """Remove a file or a whole tree; nothing happens if it is absent. UserError: a whole bucket, no permission."""
    if is_local(uri):
        target = Path(absolute(uri))
        with local.errors(uri, "delete"):
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
        return

    def remove(fs: pyarrow.fs.FileSystem, path: str) -> None:
        if "/" not in path:
            raise pyarrow.ArrowInvalid("that is a whole bucket; name a key in it")
        kind = fs.get_file_info(path).type
        with contextlib.suppress(FileNotFoundError):  # somebody else was faster
            if kind == pyarrow.fs.FileType.Directory:
                fs.delete_dir(path)
            elif kind == pyarrow.fs.FileType.File:
                fs.delete_file(path)

    _with_retries(uri, "delete", remove)
