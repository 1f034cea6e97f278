"""Parses the body of a request into fields: a form, JSON, a raw image, or base64.

    parts, read_as = parts_of(content_type, body, field_names)     # all but multipart, which Starlette parses

Clients often send the wrong content type, so the content of the body decides wherever it is unambiguous.
"""

import json
import re
import zlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from foodseg.data.image_io import known_format
from foodseg.serve.http.base64_image import decoded
from foodseg.serve.http.schema import MAX_FIELD, ApiError

MAX_PARTS = 32
MAX_VALUES = 20_000  # commas and brackets of a JSON body: a parsed value takes a hundred times its bytes
_BOUNDARY = re.compile(rb"--([\x21-\x7e]{1,200})\r?\n")
_STRIPPED = (b"\xff\xd8\xff", b"\x89PNG\x1a", b"RIFF")  # how images begin once their line breaks are gone


@dataclass(frozen=True)
class Part:
    """One field. value: text, or the content of a file. filename: of a file ("" = a file without a name), else None."""

    name: str
    value: str | bytes
    filename: str | None = None


def plain_body(body: bytes, encoding: str, limit: int) -> bytes:
    """Undoes Content-Encoding, up to `limit` bytes; a body that is not compressed after all is returned as it is.

    Raises:
        ApiError: 400 damaged, 413 larger than `limit`, 415 another encoding than gzip.
    """
    if encoding in ("", "identity") or (encoding in ("gzip", "x-gzip") and body[:2] != b"\x1f\x8b"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise ApiError(
            415, "unsupported_encoding", f"the body has Content-Encoding {encoding[:40]!r}, only gzip is read"
        )
    unpack = zlib.decompressobj(wbits=31)
    try:
        plain = unpack.decompress(body, limit + 1)
    except zlib.error:
        plain = None
    if plain is None or (len(plain) <= limit and not unpack.eof):
        raise ApiError(400, "bad_request", "the body says Content-Encoding: gzip, but is damaged or cut off")
    if len(plain) > limit:
        raise ApiError(413, "body_too_large", f"the body unpacks to more than the limit of {limit:,} bytes")
    return plain


def boundary_of(content_type: str, body: bytes) -> str | None:
    """Returns the boundary of a multipart body, None if the body is not multipart.

    A header written by hand may lack the boundary or name another type; the first line of the body gives it then.
    """
    first = _BOUNDARY.match(body)
    named = re.search(r'boundary="?([^";,]{1,200})', content_type, re.IGNORECASE)
    if named is not None and f"--{named[1]}".encode("latin-1", "replace") in body:
        return named[1]
    if first is not None and b"content-disposition:" in body[:2000].lower():
        return first[1].decode("ascii")
    return None


def parts_of(content_type: str, body: bytes, fields: tuple[str, ...]) -> tuple[list[Part], str]:
    """Returns the fields of a body that is not multipart, and how it was read.

    fields: names that the path knows, `image` among them.

    Raises:
        ApiError: 400 or 422, it cannot be read, or is ambiguous.
    """
    kind = content_type.partition(";")[0].strip().lower()
    said = f"Content-Type {kind[:60]}" if kind else "no Content-Type"
    if not body.strip():
        return [], f"an empty body with {said}"
    if known_format(body) is not None or body[:5] == _STRIPPED[1]:
        if body.startswith(_STRIPPED) and not re.search(rb"[\0\r\n]", body):
            raise ApiError(
                400, "bad_request", "the image has lost its line breaks and zero bytes, as with curl -d: "
                "send it with --data-binary, or as a form",
            )  # fmt: skip
        return [Part("image", body, "")], f"a raw body with {said}"
    start = body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if (
        kind == "application/json"
        or kind.endswith("+json")
        or (start in (b"{", b"[") and not kind.startswith("image/"))
    ):
        return _json_parts(body, said), f"JSON with {said}"
    text = _text(body)
    if text is not None and decoded(text) is not None:
        return [Part("image", text)], f"base64 in the body with {said}"
    if kind == "application/x-www-form-urlencoded" and text is not None:
        return _form_parts(text, fields), "an urlencoded form"
    if kind.startswith("multipart/"):
        raise ApiError(400, "bad_request", "the body says multipart, but holds no part that begins with its boundary")
    if text is not None and "\0" not in text:
        return [Part("image", text)], f"text with {said}"
    return [Part("image", body, "")], f"a raw body with {said}"


def _text(body: bytes) -> str | None:
    try:
        return body.decode("utf-16" if body[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        return None


def _form_parts(text: str, fields: tuple[str, ...]) -> list[Part]:
    text = text.strip("\r\n")
    if "=" not in text[:MAX_FIELD]:
        return [Part("image", text)]
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_PARTS)
    except ValueError:
        raise _too_many() from None
    # such a form encodes a blank as +, and base64 has no blanks: a + in it was left unescaped
    return [Part(name, value if name in fields and name != "image" else _plus(value)) for name, value in pairs]


def _plus(value: str) -> str:
    mended = value.replace(" ", "+")
    return mended if " " in value and len(value) > 100 and decoded(mended) is not None else value


def _json_parts(body: bytes, said: str) -> list[Part]:
    text = _text(body)
    wrong = ApiError(
        400, "bad_request", f"the body ({said}) is not a JSON object such as "
        '{"image": "<base64 or data URL>"}',
    )  # fmt: skip
    if text is None:
        raise wrong
    if sum(map(text.count, "[{,")) > MAX_VALUES:
        raise ApiError(422, "too_many_values", "the JSON holds too many values; an image is sent as base64 text")
    try:
        tree = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError):
        raise wrong from None
    if isinstance(tree, str):
        return [Part("image", tree)]
    if not isinstance(tree, _Object):
        raise (
            wrong
            if not isinstance(tree, list)
            else ApiError(422, "several_images", "the JSON is a list; one request is one object with one image")
        )
    if len(tree) > MAX_PARTS:
        raise _too_many()
    return [Part(name, text) for name, value in tree for text in _json_texts(name, value)]


class _Object(list[tuple[str, Any]]):
    """A JSON object as pairs: json itself silently keeps the last of two equal names."""


def _pairs(pairs: list[tuple[str, Any]]) -> "_Object":
    return _Object(pairs)


def _json_texts(name: str, value: Any) -> list[str]:
    """Returns what a form would hold for a JSON value; a list of one image is that image."""
    if value is None:
        return []
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and not isinstance(value, _Object):
        if value and all(isinstance(one, str) and (len(one) > 200 or decoded(one)) for one in value):
            return list(value)
        if len(value) > 300 and all(isinstance(one, int) for one in value):
            raise ApiError(422, "too_many_values", f"{name[:60]} is a list of numbers; an image is sent as base64 text")
    if isinstance(value, _Object) and name == "image":
        raise ApiError(422, "not_an_image", "image is a JSON object; it must be the base64 text or data URL itself")
    return [json.dumps(_plain(value))]


def _plain(value: Any) -> Any:
    if isinstance(value, _Object):
        return {name: _plain(part) for name, part in value}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _too_many() -> ApiError:
    return ApiError(400, "bad_request", f"the body holds more than {MAX_PARTS} fields")
