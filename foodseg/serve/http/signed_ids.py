"""Signed image ids: a client sends one to /v1/prompt instead of an image that SAM has embedded.

An id holds the digest under which the embedding is cached and the size of the client's image, signed by itsdangerous
with the server's secret and the name of the client's key. Clients with another key name cannot forge or use it, and no
server stores it.
"""

import hashlib
from dataclasses import dataclass

from itsdangerous import BadData, URLSafeSerializer

from foodseg.serve.http.schema import ApiError


@dataclass(frozen=True)
class ImageId:
    """digest: hex, of the decoded image. height, width: of the image as the client sent it, upright."""

    digest: str
    height: int
    width: int


def seal(image: ImageId, secret: bytes, key_id: str) -> str:
    """Returns the public id of an image for one API key."""
    return str(_serializer(secret, key_id).dumps([image.digest, image.height, image.width]))


def unseal(public: str, secret: bytes, key_id: str) -> ImageId:
    """Verifies a public id and returns its content.

    Raises:
        ApiError: 404 image_expired, it was not signed with this secret for this key. An id whose image was dropped from
            the cache gets the same answer, so that the answer reveals nothing.
    """
    try:
        image = ImageId(*_serializer(secret, key_id).loads(public))
    except (BadData, UnicodeError):  # UnicodeError: half of a surrogate pair
        raise image_expired() from None
    if seal(image, secret, key_id) != public:  # base64 takes other spellings of the same bytes
        raise image_expired()
    return image


def image_expired() -> ApiError:
    """Returns the error for an id whose image is not cached (any more)."""
    return ApiError(404, "image_expired", "no image is kept under this image_id", "send the image itself again")


def _serializer(secret: bytes, key_id: str) -> URLSafeSerializer:
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret, salt=f"image id\n{key_id}", signer_kwargs=signer)
