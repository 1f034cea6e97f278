"""Reads files of a data set on the Hugging Face hub: `hf://datasets/owner/name[@revision][/path]`.

The functions are those of `storage`. A file is read by HTTP ranges, so that of a Parquet file only the row groups and
columns that are asked for travel. Endpoint and token come from HF_ENDPOINT and HF_TOKEN, as for every tool of the hub.
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator

import pyarrow
from huggingface_hub import HfApi, HfFileSystem
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from foodseg.errors import FoodsegError, MissingFile, RetryLater, UserError
from foodseg.storage.text_files import decode_text

SCHEME = "hf://"
TIMEOUT = 20.0  # seconds until the hub has to have answered for the first time

_URI = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.*))?")


def pin(uri: str) -> str:
    """Returns the URI at the commit that its revision names now: `main` may move while the images are read.

    Raises:
        UserError: no such data set or revision, no right to it, or the hub is not reachable.
    """
    repository, revision, path = _split(uri)
    with explained(uri, first=True):
        commit = api().dataset_info(repository, revision=revision, timeout=TIMEOUT).sha
    return join(f"{SCHEME}datasets/{repository}@{commit}", path)


def join(uri: str, *parts: str) -> str:
    """Appends path parts."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts if part.strip("/"))])


def list_names(uri: str) -> list[str]:
    """Returns the sorted names of the direct children; [] where there is no such folder. UserError, RetryLater."""
    repository, revision, path = _split(uri)
    with explained(uri):
        try:
            tree = api().list_repo_tree(repository, path or None, revision=revision, repo_type="dataset")
            return sorted(entry.path.rsplit("/", 1)[-1] for entry in tree)
        except EntryNotFoundError:
            return []


def read_text(uri: str) -> str:
    """Returns the whole file as text, as `text_files.decode_text`. UserError: missing, or not UTF-8. RetryLater."""
    with open_input(uri) as stream:
        return decode_text(bytes(stream.read()), uri)


def open_input(uri: str) -> pyarrow.NativeFile:
    """Opens a file for random access, for Parquet readers. UserError, RetryLater, also from its reads."""
    return pyarrow.PythonFile(_RangeFile(uri), mode="r")


class _RangeFile(io.RawIOBase):
    """A file whose reads explain why they fail."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri
        with explained(uri):
            # no cache: a Parquet reader knows what it needs, and a read-ahead of 5 MB would often be thrown away
            self._file = HfFileSystem(endpoint=endpoint()).open(uri.removeprefix(SCHEME), "rb", cache_type="none")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, count: int | None = -1) -> bytes:
        with explained(self._uri):
            return bytes(self._file.read(-1 if count is None else count))


def _split(uri: str) -> tuple[str, str | None, str]:
    """Returns "owner/name", the revision or None, and the path."""
    found = _URI.fullmatch(uri)
    if not found:
        raise UserError(f"{uri}: expected hf://datasets/owner/name, and optionally @revision and a path")
    return found[1], found[2], (found[3] or "").strip("/")


def endpoint() -> str | None:
    """Returns the address of the hub that HF_ENDPOINT names; None = huggingface.co."""
    return os.environ.get("HF_ENDPOINT") or None


def api(token: str | None = None) -> HfApi:
    """Returns the hub's API; `token`: None = HF_TOKEN, or that of `hf auth login`."""
    return HfApi(endpoint=endpoint(), token=token)


@contextlib.contextmanager
def explained(uri: str, *, first: bool = False, what: str = "data set", verb: str = "read") -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence about what `uri` names.

    Args:
        first: a hub that never answered is a wrong address.
    """
    host = api().endpoint
    where = f"cannot {verb} {uri}"
    try:
        yield
    except FoodsegError:
        raise
    except (OSError, HTTPError, EntryNotFoundError) as error:
        # its file system hides what was not found behind a FileNotFoundError
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        if isinstance(cause, GatedRepoError):
            reason = "its owner lets in only who has agreed to the conditions on its page; do so and set HF_TOKEN"
        elif isinstance(cause, RepositoryNotFoundError):
            reason = f"{host} has no such {what}, or it is private; correct the name or set HF_TOKEN"
        elif isinstance(cause, RevisionNotFoundError):
            reason = f"the {what} at {host} has no such revision"
        elif isinstance(cause, FileNotFoundError | EntryNotFoundError):
            raise MissingFile(f"{where}: no such file") from None
        elif isinstance(cause, HfHubHTTPError) and not _passes(cause.response.status_code):
            reason = f"{host} answers {cause.response.status_code}; is HF_ENDPOINT a hub, and HF_TOKEN right?"
        elif first and not isinstance(cause, HfHubHTTPError):
            advice = f"download the {what} on a machine that reaches it, and give its folder instead"
            reason = f"{host} is not reachable; {advice if verb == 'read' else 'is HF_ENDPOINT right?'}"
        else:
            answers = isinstance(cause, HfHubHTTPError) and f"answers {cause.response.status_code}"
            reason = answers or f"does not answer ({_first_line(cause)})"
            raise RetryLater(f"{where}: {host} {reason}; run the same command again later") from None
        raise UserError(f"{where}: {reason}") from None
    except (ValueError, KeyError, TypeError) as error:  # an impossible name, or a web page instead of the hub's JSON
        said = _first_line(error)
        raise UserError(f"{where}: {said}; is the name right, and is {host} a hub (HF_ENDPOINT)?") from None


def _passes(status: int) -> bool:
    return status >= 500 or status in (408, 429)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
