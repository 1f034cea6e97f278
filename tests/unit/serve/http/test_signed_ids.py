"""The signed id of an image: valid for the key that got it, and for no other."""

import base64
import hashlib
import hmac
import string

import pytest

from foodseg.serve.http.schema import ApiError
from foodseg.serve.http.signed_ids import ImageId, seal, unseal

IMAGE = ImageId("0f1e2d3c4b5a69788796a5b4c3d2e1f0", 3000, 4000)
SECRET = b"of the server"
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"  # of base64


def resized(public: str) -> str:
    """The same image, said to be larger."""
    content, _, mac = public.partition(".")
    changed = base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)).replace(b"4000", b"4001")
    return f"{base64.urlsafe_b64encode(changed).rstrip(b'=').decode()}.{mac}"


def test_by_hand() -> None:
    key = hmac.new(SECRET, b"image id\ncanteen", hashlib.sha256).digest()
    content = base64.urlsafe_b64encode(b'["' + IMAGE.digest.encode() + b'",3000,4000]').rstrip(b"=")
    mac = base64.urlsafe_b64encode(hmac.new(key, content, hashlib.sha256).digest()).rstrip(b"=")
    assert seal(IMAGE, SECRET, "canteen") == f"{content.decode()}.{mac.decode()}"
    assert unseal(seal(IMAGE, SECRET, "canteen"), SECRET, "canteen") == IMAGE
    assert unseal(seal(IMAGE, SECRET, ""), SECRET, "") == IMAGE


@pytest.mark.parametrize(
    "change",
    [
        resized,
        lambda public: "cd" + public[2:],
        *(lambda public, bits=bits: public[:-1] + ALPHABET[ALPHABET.index(public[-1]) ^ bits] for bits in range(1, 5)),
        lambda public: public.upper(),
        lambda public: public + "\n",
        lambda public: "",
        lambda public: "x" * 100_000,
        lambda public: "\u0661" + public[1:],
        lambda public: "\ud800" + public[1:],
        lambda public: public.replace(".", ""),
    ],
)
def test_a_changed_id_is_expired(change: object) -> None:
    with pytest.raises(ApiError) as caught:
        unseal(change(seal(IMAGE, SECRET, "canteen")), SECRET, "canteen")  # type: ignore[operator]
    assert (caught.value.status, caught.value.code) == (404, "image_expired")


@pytest.mark.parametrize(("secret", "key_id"), [(SECRET, "lab"), (SECRET, ""), (b"another", "canteen")])
def test_another_key_or_server_cannot_use_it(secret: bytes, key_id: str) -> None:
    with pytest.raises(ApiError, match="no image is kept"):
        unseal(seal(IMAGE, SECRET, "canteen"), secret, key_id)
