"""Storage as a file system of pyarrow, for Ray: what Ray writes itself has the access that everything else has.

    filesystem, path = ray_storage("s3://runs/r1/ray")       # (None, path) on a disk
    ray.train.RunConfig(storage_filesystem=filesystem, storage_path=path)

It is pickled as the parts of the URI around the path; who may write is looked up again wherever it is unpickled.
"""

import tempfile
from functools import partial
from typing import Any

import pyarrow
import pyarrow.fs

from foodseg import storage
from foodseg.errors import MissingFile
from foodseg.storage import s3
from foodseg.storage.s3_client import with_retries


def ray_storage(uri: str) -> tuple[pyarrow.fs.FileSystem | None, str]:
    """The file system, and the path in it, that Ray takes for a URI. UserError: malformed."""
    whole = storage.absolute(uri)
    if storage.is_local(whole):
        return None, whole
    location, mark, query = whole.removeprefix("s3://").partition("?")
    host, slash, key = location.partition("/")
    user, at, bucket = host.rpartition("@")
    return pyarrow.fs.PyFileSystem(StorageHandler(user + at, mark + query)), bucket + slash + key


class StorageHandler(pyarrow.fs.FileSystemHandler):
    """What Ray asks of a file system. Paths are "bucket/key"; `user` and `query`: what a URI has around them."""

    def __init__(self, user: str, query: str) -> None:
        self._around = (user, query)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageHandler) and self._around == other._around

    def __hash__(self) -> int:
        return hash(self._around)

    def _uri(self, path: str) -> str:
        user, query = self._around
        return f"s3://{user}{path.strip('/')}{query}"

    def get_type_name(self) -> str:
        return "foodseg"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        return [self._info(path) for path in paths]

    def _info(self, path: str) -> pyarrow.fs.FileInfo:
        size = with_retries(self._uri(path), "look for", s3.size) if "/" in path.strip("/") else None
        if size is not None:
            return pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.File, size=size)
        kind = pyarrow.fs.FileType.Directory if storage.exists(self._uri(path)) else pyarrow.fs.FileType.NotFound
        return pyarrow.fs.FileInfo(path, kind)

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        base = selector.base_dir.strip("/")
        found = with_retries(self._uri(base), "list", partial(s3.entries, recursive=selector.recursive))
        if not found and not selector.allow_not_found and not storage.exists(self._uri(base)):
            raise FileNotFoundError(base)
        parts = [path.split("/") for path in found]
        folders = {"/".join(names[:end]): None for names in parts for end in range(1, len(names))}
        kinds = (pyarrow.fs.FileType.Directory, pyarrow.fs.FileType.File)
        return [
            pyarrow.fs.FileInfo(f"{base}/{path}", kinds[size is not None], size=size)
            for path, size in {**folders, **found}.items()
        ]

    def create_dir(self, path: str, recursive: bool) -> None:
        pass  # a folder is there as soon as something is in it

    def delete_dir(self, path: str) -> None:
        storage.delete(self._uri(path))

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        storage.delete(self._uri(path))

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("all buckets")

    def delete_file(self, path: str) -> None:
        storage.delete(self._uri(path))

    def move(self, src: str, dest: str) -> None:
        raise NotImplementedError("S3 cannot move")

    def copy_file(self, src: str, dest: str) -> None:
        storage.write_bytes(self._uri(dest), storage.read_bytes(self._uri(src)))

    def open_input_stream(self, path: str) -> pyarrow.NativeFile:
        return self.open_input_file(path)

    def open_input_file(self, path: str) -> pyarrow.NativeFile:
        try:
            return storage.open_input(self._uri(path))
        except MissingFile as error:
            raise FileNotFoundError(str(error)) from None

    def open_output_stream(self, path: str, metadata: Any) -> pyarrow.NativeFile:
        return pyarrow.PythonFile(_Output(self._uri(path)), mode="w")

    def open_append_stream(self, path: str, metadata: Any) -> pyarrow.NativeFile:
        raise NotImplementedError("S3 cannot append")


class _Output:
    """Bytes that become an object when the stream is closed."""

    closed = False

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._kept = tempfile.SpooledTemporaryFile(max_size=s3.WHOLE)  # noqa: SIM115

    def write(self, data: bytes) -> int:
        return self._kept.write(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True

        def send(target: Any) -> None:
            self._kept.seek(0)
            s3.send(target, self._kept)  # type: ignore[arg-type]  # io.BufferedIOBase in all but name

        with self._kept:
            with_retries(self._uri, "write", send)
