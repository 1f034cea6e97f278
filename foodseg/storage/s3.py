"""The S3 half of `storage`: from a URI to a client, reads and writes of whole objects, and what errors mean.

pyarrow answers a failure with a text such as "When reading information for key 'k' in bucket 'b': AWS Error
ACCESS_DENIED during HeadObject operation: No response body."; `mistake` turns it into what the user can do about it.
"""

import ctypes
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import BinaryIO, TypeVar
from urllib.parse import parse_qsl, unquote

import pyarrow
import pyarrow.fs

from foodseg.errors import UserError
from foodseg.storage import local

CHUNK = 8 << 20
CHANGED_READS = 10  # of an object that was written again meanwhile, one right after the other
FLUSH_EVERY = 8  # chunks: bounds what an upload holds in memory when the disk is faster than the network
QUERY_KEYS = ("endpoint_override", "region", "scheme")
_ABSENT = ".foodseg-not-there"
T = TypeVar("T")

_SECRETS = re.compile(
    r"//(?:[^/@\s]*:[^@\s?]*|[^/@\s]+)@|([?&][^=&\s]*(?:key|secret|token|pass|sign|cred)[^=&\s]*=)[^&\s]*", re.I
)


def redact(uri: str) -> str:
    """A URI (or a text with URIs) without keys and secrets, for messages."""
    return _SECRETS.sub(lambda found: f"{found[1]}***" if found[1] else "//***@", uri)


@dataclass(frozen=True)
class S3Endpoint:
    """What makes one S3 client differ from another."""

    url: str  # "" = Amazon's own
    region: str | None
    access_key: str | None
    secret_key: str | None = field(repr=False)
    session_token: str | None = field(repr=False)

    @property
    def name(self) -> str:
        return redact(self.url) or "Amazon S3"


def split(uri: str) -> tuple[str, str, dict[str, str]]:
    """An s3 URI as ("key:secret" or "", "bucket/key", query). UserError: no bucket, unknown query key."""
    location, _, query_text = uri.removeprefix("s3://").partition("?")
    host, slash, key = location.partition("/")
    user, _, bucket = host.rpartition("@")
    if not bucket:
        raise UserError(f"{redact(uri)}: no bucket; write s3://bucket/key")
    if ":" in bucket:
        raise UserError(f"{redact(uri)}: not a bucket name; in s3://key:secret@bucket write '/' as %2F and '@' as %40")
    query = dict(parse_qsl(query_text))
    for name in query:
        if name not in QUERY_KEYS:
            raise UserError(f"{redact(uri)}: unknown query key {name}; valid are {', '.join(QUERY_KEYS)}")
    return user, (bucket + slash + key).rstrip("/"), query


def endpoint_of(uri: str) -> tuple[S3Endpoint, str]:
    """The endpoint and "bucket/key" of an s3 URI, from the URI first and the environment second. UserError."""
    user, path, query = split(uri)
    env = os.environ
    url = query.get("endpoint_override") or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or ""
    if "endpoint_override" in query and "://" not in url:
        url = f"{query.get('scheme', 'https')}://{url}"
    if url and not url.startswith(("http://", "https://")):
        raise UserError(f"S3 endpoint {redact(url)}: write it as http://host:port or https://host")
    access_key, _, secret_key = map(unquote, user.partition(":"))
    token = None
    if not access_key:
        access_key, secret_key = env.get("AWS_ACCESS_KEY_ID", ""), env.get("AWS_SECRET_ACCESS_KEY", "")
        token = env.get("AWS_SESSION_TOKEN")
    if bool(access_key) != bool(secret_key):
        raise UserError(
            f"{redact(uri)}: set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; only one of them is there"
        )
    # Without a region the SDK asks Amazon's metadata service, which takes seconds where there is none.
    region = (
        query.get("region") or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or ("us-east-1" if url else None)
    )
    return S3Endpoint(url.rstrip("/"), region, access_key or None, secret_key or None, token), path


@lru_cache(maxsize=16)
def client(endpoint: S3Endpoint) -> pyarrow.fs.S3FileSystem:
    """One client per process and endpoint. It does not connect yet."""
    scheme, _, host = endpoint.url.partition("://")
    return pyarrow.fs.S3FileSystem(
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        session_token=endpoint.session_token,
        region=endpoint.region,
        scheme=scheme or "https",
        endpoint_override=host or None,
        connect_timeout=5,
        request_timeout=60,
        allow_delayed_open=True,  # a small file is then one PUT
        # Only background writes remember that a part failed: without them pyarrow's stream, when destroyed after an
        # error, completes the upload with the parts that did arrive.
        background_writes=True,
        retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=3),
    )


def get(fs: pyarrow.fs.FileSystem, path: str, read: Callable[[pyarrow.NativeFile], T]) -> T:
    """What `read` takes from one object while nobody wrote it again. OSError as pyarrow gives it.

    pyarrow asks for the size first and for so many bytes later: of an object that has grown in between it gives a part,
    of one that has shrunk all of it and then meaningless bytes.
    """
    for _ in range(CHANGED_READS):
        with fs.open_input_file(path) as stream:
            taken, before = read(stream), stream.metadata()
        with fs.open_input_file(path) as stream:
            if stream.metadata() == before:
                return taken
    raise OSError("it is being written again all the time")


def put(fs: pyarrow.fs.FileSystem, path: str, source: BinaryIO) -> None:
    """Write one object from a stream, in chunks: all of it or nothing. OSError as pyarrow gives it."""
    stream = fs.open_output_stream(path, compression=None)  # the default would gzip a name that ends in .gz
    try:
        for number, chunk in enumerate(iter(lambda: source.read(CHUNK), b""), start=1):
            stream.write(chunk)
            if number % FLUSH_EVERY == 0:
                stream.flush()
        stream.close()
    except BaseException:
        # pyarrow has no abort, and destroying an open stream completes the upload: a cut object would replace the
        # old one. So this stream is never destroyed, at the price of one part in memory.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
        raise


def reason(text: str) -> str:
    """The informative part of "When doing this: AWS Error CODE during X operation: curlCode: 7, Could not connect"."""
    found = re.search(r"AWS Error (.*)", text, re.S)
    return (found[1] if found else text).partition("; Details")[0].partition(" (Request ID")[0].strip()


def mistake(error: Exception, endpoint: S3Endpoint, path: str) -> str | None:
    """What the user did wrong and what would be right; None if the failure may pass."""
    bucket = path.partition("/")[0]
    text = str(error)
    if "NO_SUCH_BUCKET" in text or (isinstance(error, FileNotFoundError) and not _bucket_exists(endpoint, bucket)):
        return f"there is no bucket {bucket} at {endpoint.name}; create it or correct the name"
    if isinstance(error, FileNotFoundError):
        return local.NO_SUCH_FILE
    if "Not a regular file" in text:
        return "that is a bucket or a folder; name a file in it"
    if isinstance(error, pyarrow.ArrowInvalid):
        return text
    if "ACCESS_DENIED during HeadObject" in text:
        text = _ask_again(endpoint, bucket) or text
    if "SIGNATURE_DOES_NOT_MATCH" in text:
        return f"{endpoint.name}: this secret is not that of key {endpoint.access_key}; correct AWS_SECRET_ACCESS_KEY"
    if "INVALID_ACCESS_KEY_ID" in text or "UNRECOGNIZED_CLIENT" in text or "INVALID_CLIENT_TOKEN" in text:
        return f"{endpoint.name} does not know the key {endpoint.access_key}; correct AWS_ACCESS_KEY_ID"
    if "ExpiredToken" in text:
        return f"the session token for {endpoint.name} has expired; renew AWS_SESSION_TOKEN"
    if "ACCESS_DENIED" in text or re.search(r"HTTP status 40[13]", text):
        if endpoint.access_key is None:
            return f"{endpoint.name} wants credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return f"{endpoint.name} denies it to the key {endpoint.access_key}; give that key the right on bucket {bucket}"
    if re.search(r"HTTP status (30\d|400|404|405)", text):
        return f"{endpoint.name} answers {reason(text)}; is that an S3 endpoint, and AWS_REGION right?"
    return None


def _bucket_exists(endpoint: S3Endpoint, bucket: str) -> bool:
    try:
        return bool(client(endpoint).get_file_info(bucket).type != pyarrow.fs.FileType.NotFound)
    except OSError:
        return True  # not known: the caller then blames the file, which is certain


def _ask_again(endpoint: S3Endpoint, bucket: str) -> str | None:
    """A HEAD answer has no body, so a wrong key looks like a missing right; listing an absent name shows which."""
    try:
        client(endpoint).get_file_info(pyarrow.fs.FileSelector(f"{bucket}/{_ABSENT}", allow_not_found=True))
    except OSError as error:
        return str(error)
    return None
