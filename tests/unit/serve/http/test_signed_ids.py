"""The signed id of an image: valid for the key that got it, and for no other."""

import hashlib
import hmac

import pytest

from foodseg.serve.http.schema import ApiError
from foodseg.serve.http.signed_ids import ImageId, seal, unseal

IMAGE = ImageId("ab" * 32, 3000, 4000)
SECRET = b"of the server"


def test_by_hand() -> None:
    mac = hmac.new(SECRET, b"canteen\n" + b"ab" * 32 + b"-4000x3000", hashlib.sha256).hexdigest()[:32]
    assert seal(IMAGE, SECRET, "canteen") == f"{'ab' * 32}-4000x3000-{mac}"
    assert unseal(seal(IMAGE, SECRET, "canteen"), SECRET, "canteen") == IMAGE
    assert unseal(seal(IMAGE, SECRET, ""), SECRET, "") == IMAGE


@pytest.mark.parametrize(
    "change",
    [
        lambda public: public.replace("4000", "4001"),
        lambda public: "cd" + public[2:],
        lambda public: public[:-1] + ("0" if public[-1] != "0" else "1"),
        lambda public: public.upper(),
        lambda public: public + "\n",
        lambda public: "",
        lambda public: "x" * 100_000,
        lambda public: "\u0661" + public[1:],
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
