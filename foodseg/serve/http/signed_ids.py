"""Signed image ids: a client sends one to /v1/prompt instead of an image that SAM has embedded.

An id holds the digest under which the embedding is cached, the size of the client's image, and a signature of both
(HMAC of the server's secret and the name of the client's key). Clients with another key name cannot forge or use it,
and no server stores it.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass

from foodseg.serve.http.schema import ApiError

_FORM = re.compile(r"([0-9a-f]{16,128})-([0-9]{1,6})x([0-9]{1,6})-([0-9a-f]{32})", re.ASCII)


@dataclass(frozen=True)
class ImageId:
    """digest: hex, of the decoded image. height, width: of the image as the client sent it, upright."""

    digest: str
    height: int
    width: int


def seal(image: ImageId, secret: bytes, key_id: str) -> str:
    """Returns the public id of an image for one API key."""
    content = f"{image.digest}-{image.width}x{image.height}"
    return f"{content}-{_mac(content, secret, key_id)}"


def unseal(public: str, secret: bytes, key_id: str) -> ImageId:
    """Verifies a public id and returns its content.

    Raises:
        ApiError: 404 image_expired, it was not signed with this secret for this key. An id whose image was dropped from
            the cache gets the same answer, so that the answer reveals nothing.
    """
    parts = _FORM.fullmatch(public)
    if parts is None:
        raise image_expired()
    digest, width, height, mac = parts.groups()
    if not hmac.compare_digest(mac, _mac(public.rpartition("-")[0], secret, key_id)):
        raise image_expired()
    return ImageId(digest, int(height), int(width))


def image_expired() -> ApiError:
    """Returns the error for an id whose image is not cached (any more)."""
    return ApiError(404, "image_expired", "no image is kept under this image_id", "send the image itself again")


def _mac(content: str, secret: bytes, key_id: str) -> str:
    # a key's name may hold anything but a line break, so the two parts cannot run into each other
    return hmac.new(secret, f"{key_id}\n{content}".encode(), hashlib.sha256).hexdigest()[:32]
