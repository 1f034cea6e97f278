"""Decodes an image that was sent as base64 or a data URL, in any of the variants that programs write.

    image_of_text("data:image/jpeg;base64,/9j/4AAQ...", "image")     # the bytes of the JPEG

It accepts every unambiguous variant: line breaks, the URL-safe alphabet, missing padding, Python's b'...' around it.
"""

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from foodseg.data.image_io import known_format
from foodseg.serve.http.schema import ApiError

SHORTEST = 64  # characters of base64 below which a text is a word rather than an image in a format we do not know
_DATA_URL = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
_BASE64_PREFIX = re.compile(r"[\w.+/-]{0,60};base64,", re.ASCII | re.IGNORECASE)  # a data URL that lost its `data:`
_ADDRESS = re.compile(r"((https?|ftp|s3|gs|hf|file)://?|blob:|www\.)\S", re.IGNORECASE)
_FILE_NAME = re.compile(r"@.+|.*\.(jpe?g|png|webp|hei[cf]|avif|gif|bmp|tiff?|txt|b64)", re.IGNORECASE)
_QUOTED = re.compile(r"b?(['\"])(.*)\1", re.DOTALL)
_STARTS = ("/9j/", "iVBORw0KGgo", "UklGR")  # of a JPEG, a PNG and a WebP in base64
_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/]", re.ASCII)


def image_of_text(text: str, field: str) -> bytes:
    """Returns the bytes of the image in a text field; they are not decoded, and may be no image.

    Raises:
        ApiError: 422, the text is an address, a file name, or not an image at all; the caller adds a hint.
    """
    found = _binary(text) or decoded(text)
    if found is not None:
        return found
    stripped = text.strip()
    shown = repr(stripped[:40]) + ("..." if len(stripped) > 40 else "")
    if not stripped:
        raise ApiError(422, "empty_image", f"{field} is empty")
    if _claims_image(stripped):
        raise ApiError(422, "damaged_image", f"{field} is base64 that is damaged or cut off: {shown}")
    if _ADDRESS.match(stripped):
        raise ApiError(
            422, "address_not_fetched", f"{field} is the address {shown}; nothing is fetched from elsewhere: download "
            "the image and send its content",
        )  # fmt: skip
    if len(stripped) < 4096 and _FILE_NAME.fullmatch(stripped):
        said = "the name of a file, and not its content (curl -F reads a file where an @ is before its name)"
        raise ApiError(422, "not_an_image", f"{field} is the text {shown}, {said}")
    raise ApiError(422, "not_an_image", f"{field} is the text {shown}, which is neither base64 nor a data URL")


def image_in_file(data: bytes) -> bytes:
    """Returns the content of a file, decoded if it is the text of a data URL or base64."""
    text = _as_text(data)
    found = decoded(text) if text is not None else None
    return data if found is None else found


def decoded(text: str) -> bytes | None:
    """Returns the bytes that a data URL or base64 encodes, None if the text is neither."""
    text = text.strip().lstrip("\ufeff")
    quoted = _QUOTED.fullmatch(text)
    if quoted is not None:
        text = quoted[2].strip()
    url = _DATA_URL.match(text)
    if url is not None and not url[1].lower().rstrip().endswith("base64"):
        return unquote_to_bytes(text[url.end() :])
    prefix = url or _BASE64_PREFIX.match(text)
    if prefix is not None:
        return _from_base64(text[prefix.end() :])
    found = _from_base64(text)
    if found is not None and known_format(found) is None and len(text) < SHORTEST:
        return None  # "lunch" is valid base64, too
    return found


def looks_like_image(text: str) -> bool:
    """Whether a text field of any name holds an image, possibly a damaged one."""
    if _claims_image(text.strip()) or _binary(text):
        return True
    found = decoded(text)
    return found is not None and known_format(found) is not None


def _claims_image(text: str) -> bool:
    prefix = _DATA_URL.match(text) or _BASE64_PREFIX.match(text)
    return prefix is not None or text.startswith(_STARTS)


def _from_base64(text: str) -> bytes | None:
    if "%" in text[-12:]:  # its padding was percent-encoded for a URL
        text = unquote_to_bytes(text).decode("latin-1")
    plain = "".join(text.split()).replace("-", "+").replace("_", "/").replace("\\n", "").rstrip("=")
    if not plain or len(plain) % 4 == 1 or _NOT_BASE64.search(plain):
        return None
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error:  # pragma: no cover - the alphabet and the length were checked
        return None


def _binary(text: str) -> bytes | None:
    """Returns the bytes of an image that was sent as a text field (curl -F 'image=<lunch.jpg'), else None."""
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        return None
    return data if known_format(data) is not None else None


def _as_text(data: bytes) -> str | None:
    """Returns the text of a text file, as editors and shells write it; None for anything else."""
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return data.decode("utf-16")
        start = data[:64].removeprefix(b"\xef\xbb\xbf")
        return (
            data.decode("utf-8-sig")
            if start.decode("ascii").replace("\n", "").replace("\r", "").isprintable()
            else None
        )
    except UnicodeDecodeError:
        return None
