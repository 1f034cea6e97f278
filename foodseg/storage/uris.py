"""Names of files: a plain path, `file://`, or `s3://bucket/key?query`.

A key is plain text: spaces, "+", "#", "%" and letters of any script are written as they are, and nothing is decoded. A
"?" begins the query, so that a key with a "?" cannot be written in a URI. The query may say:

    endpoint_override=host:port, scheme=http, region=eu-central-1    instead of the environment
    anonymous=true          unsigned requests, for public buckets
    requester_pays=true     whoever asks pays for the traffic

    absolute("data"), join("s3://runs/r1?region=eu-1", "note.txt"), parse("s3://bucket/key")
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from foodseg.errors import UserError

QUERY_KEYS = ("endpoint_override", "region", "scheme", "anonymous", "requester_pays")
_SWITCHES = {"true": True, "false": False}
_SECRETS = re.compile(
    r"//(?:[^/@\s]*:[^@\s?]*|[^/@\s]+)@|([?&][^=&\s]*(?:key|secret|token|pass|sign|cred)[^=&\s]*=)[^&\s]*", re.I
)


def redact(uri: str) -> str:
    """A URI (or a text with URIs) without keys and secrets, for messages."""
    return _SECRETS.sub(lambda found: f"{found[1]}***" if found[1] else "//***@", uri)


@dataclass(frozen=True)
class Endpoint:
    """What a URI says of the server and of who asks; "" and None: as the environment has it."""

    url: str = ""
    region: str | None = None
    access_key: str = ""
    secret_key: str = field(default="", repr=False)
    anonymous: bool = False
    requester_pays: bool = False


@dataclass(frozen=True)
class S3Uri:
    """`key` is "" for a whole bucket, and has no slash at its end."""

    endpoint: Endpoint
    bucket: str
    key: str


def absolute(uri: str) -> str:
    """A plain or file:// path as an absolute plain path; an s3 URI as it is, without trailing slash.

    UserError: unknown scheme, s3 without bucket, file:// with a host, ~name of an unknown user.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if _is_plain(uri):
            return uri
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
        parse(uri)  # refuses a missing bucket and unknown query keys
        location, mark, query = rest.partition("?")
        return f"s3://{location.rstrip('/')}{mark}{query}"
    first = "download it first, and " if scheme in ("http", "https") else ""
    raise UserError(
        f"{redact(uri)}: unknown scheme {scheme}://; {first}use a plain path, file:///path or s3://bucket/key"
    )


def without_query(uri: str) -> str:
    """The URI without its query, which only s3:// has: a "?" in a local path is part of a name."""
    return uri.partition("?")[0] if uri.startswith("s3://") else uri


def is_hub(uri: str) -> bool:
    """True for `hf://...`: a data set (`storage/hub.py`) or a model (`checkpoint/hub.py`), no storage to write to."""
    return uri.startswith("hf://")


def is_local(uri: str) -> bool:
    """True for a plain path and for file://."""
    return not absolute(uri).startswith("s3://")


def join(uri: str, *parts: str) -> str:
    """Append path parts; the query string of an s3 URI stays at the end. UserError: an s3 part with a "?"."""
    whole = absolute(uri)
    names = [part.strip("/") for part in parts]
    if is_local(whole):
        path = "/".join([whole, *names])
        return path if _is_plain(path) else str(Path(whole, *names))
    if any("?" in name for name in names):
        raise UserError(
            f"{redact(whole)}: the name {'/'.join(names)!r} has a '?', which would begin the query; rename it"
        )
    location, mark, query = whole.partition("?")
    return "/".join([location, *(name for name in names if name)]) + mark + query


def _is_plain(path: str) -> bool:
    """True for an absolute path that pathlib returns as it is, ten times as slowly: listings join millions."""
    return path.startswith("/") and not path.endswith(("/", "/.")) and "//" not in path and "/./" not in path


def parse(uri: str) -> S3Uri:
    """UserError: no bucket, an unknown query key or value, half a pair of keys."""
    location, _, query_text = uri.removeprefix("s3://").partition("?")
    host, _, key = location.partition("/")
    user, _, bucket = host.rpartition("@")
    if not bucket:
        raise UserError(f"{redact(uri)}: no bucket; write s3://bucket/key")
    if ":" in bucket:
        raise UserError(f"{redact(uri)}: not a bucket name; in s3://key:secret@bucket write '/' as %2F and '@' as %40")
    query = dict(parse_qsl(query_text, keep_blank_values=True))
    for name in query:
        if name not in QUERY_KEYS:
            raise UserError(f"{redact(uri)}: unknown query key {name}; valid are {', '.join(QUERY_KEYS)}")
    for name in ("anonymous", "requester_pays"):
        if query.get(name, "true") not in _SWITCHES:
            raise UserError(f"{redact(uri)}: {name} is true or false, found {query[name]!r}")
    url = query.get("endpoint_override", "")
    if url and "://" not in url:
        url = f"{query.get('scheme', 'https')}://{url}"
    access_key, _, secret_key = map(unquote, user.partition(":"))
    if bool(access_key) != bool(secret_key):
        raise UserError(f"{redact(uri)}: write the key with its secret, s3://key:secret@bucket, or neither")
    endpoint = Endpoint(
        url=url.rstrip("/"),
        region=query.get("region") or None,
        access_key=access_key,
        secret_key=secret_key,
        anonymous=_SWITCHES[query.get("anonymous", "false")],
        requester_pays=_SWITCHES[query.get("requester_pays", "false")],
    )
    return S3Uri(endpoint, bucket, key.rstrip("/"))
