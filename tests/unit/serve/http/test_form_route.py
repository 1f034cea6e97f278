"""Bodies other than the multipart form: unambiguous ones are read, the errors of others say how to send it."""

import asyncio
import base64
import gzip
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import cv2
import numpy as np
import pytest

from foodseg.config.serve import parse_serve_config
from foodseg.serve.http.api import make_api
from foodseg.serve.protocols import Backends
from tests.support.asgi import Reply, ask
from tests.support.hostile_requests import multipart
from tests.support.page_server import FakeClip, FakeSam, FakeSegmenter, KnownImages
from tests.support.tiny_checkpoints import meal

CLASSES = ("background", "rice", "egg", "fried tofu")
HEIGHT, WIDTH = 48, 64
JPEG = cv2.imencode(".jpg", meal(4, HEIGHT, WIDTH)[:, :, ::-1])[1].tobytes()
PNG = cv2.imencode(".png", meal(4, HEIGHT, WIDTH)[:, :, ::-1])[1].tobytes()
B64 = base64.b64encode(JPEG).decode()
URL = f"data:image/jpeg;base64,{B64}"
FORM = "multipart/form-data; boundary=b0undary"
JSON = "application/json"
URLENCODED = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def app() -> Any:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:16], mask[16:32] = 1, 2
    images = KnownImages(CLASSES, [(meal(4, HEIGHT, WIDTH), mask)])
    backends = Backends(FakeSegmenter(images), FakeSam(images), FakeClip())
    config = parse_serve_config({"http": {"max_body_bytes": 200_000}})
    return make_api(config, backends, secret=b"s", keys=None)


def post(app: Any, body: bytes, content_type: str = "", path: str = "/v1/segment", **more: Any) -> Reply:
    headers: Mapping[str, str] = more.pop("headers", {})
    given = {"host": "meals.example:9000", **({"content-type": content_type} if content_type else {}), **headers}
    path, _, query = path.partition("?")
    return asyncio.run(ask(app, more.pop("method", "POST"), path, body, given, query=query))


def form(*fields: tuple[str, str | None, bytes]) -> bytes:
    return multipart(list(fields))


def as_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


READ = {
    "form": (form(("image", "a.jpg", JPEG)), FORM),
    "field file": (form(("file", "a.jpg", JPEG)), FORM),
    "any field, one file": (form(("upload", "a.jpg", JPEG), ("format", None, b"rle")), FORM),
    "Image[]": (form(("Image[]", "a.jpg", JPEG)), FORM),
    "data URL in a file": (form(("image", "a.txt", URL.encode())), FORM),
    "data URL as a field": (form(("image", None, URL.encode())), FORM),
    "base64 in a file, with line breaks": (form(("image", "a.b64", base64.encodebytes(JPEG))), FORM),
    "base64 of URLs without padding": (form(("image", None, base64.urlsafe_b64encode(JPEG).rstrip(b"="))), FORM),
    "base64 as Windows writes it": (form(("image", "a.b64", B64.encode("utf-16"))), FORM),
    "curl's <": (form(("image", None, JPEG)), FORM),
    "a form without its boundary": (form(("image", "a.jpg", JPEG)), "multipart/form-data"),
    "a form of another boundary": (form(("image", "a.jpg", JPEG)), "multipart/form-data; boundary=other"),
    "a form that says JSON": (form(("image", "a.jpg", JPEG)), JSON),
    "JSON": (as_json(image=B64), JSON),
    "JSON with a data URL": (as_json(image=URL, format="png", pixels_per_cm=None), JSON),
    "JSON of str(bytes)": (as_json(image=str(base64.b64encode(JPEG))), JSON),
    "JSON under another name": (as_json(img=B64), JSON),
    "JSON list of one": (as_json(images=[B64]), JSON),
    "JSON text": (json.dumps(B64).encode(), JSON),
    "JSON by curl -d": (as_json(image=B64), URLENCODED),
    "JSON with a byte order mark": (b"\xef\xbb\xbf" + as_json(image=B64), JSON),
    "raw": (JPEG, "image/jpeg"),
    "raw octets": (PNG, "application/octet-stream"),
    "raw by --data-binary": (JPEG, URLENCODED),
    "raw that says JSON": (PNG, JSON),
    "raw without a type": (JPEG, ""),
    "base64 as text": (B64.encode(), "text/plain"),
    "base64 by curl -d": (B64.encode(), URLENCODED),
    "data URL as the body": (URL.encode(), "text/plain; charset=utf-8"),
    "urlencoded": (urlencode({"image": B64, "format": "rle"}).encode(), URLENCODED),
    "urlencoded, + left as it is": (f"image={B64}&format=rle".encode(), URLENCODED),
    "a data URL without base64": (f"data:image/jpeg,{quote(JPEG)}".encode(), "text/plain"),
}


@pytest.mark.parametrize("name", READ)
def test_unambiguous_bodies_are_read(app: Any, name: str) -> None:
    body, content_type = READ[name]
    reply = post(app, body, content_type)
    assert reply.status == 200, reply.body
    assert reply.json()["image"]["height"] == HEIGHT
    assert [one["name"] for one in reply.json()["ingredients"]] == ["rice", "egg"]


def test_the_other_fields_are_read_too(app: Any) -> None:
    for body, content_type, path in (
        (as_json(image=B64, ingredients=["egg"], format="png"), JSON, "/v1/segment"),
        (JPEG, "image/jpeg", "/v1/segment?ingredients=egg&format=png"),
        (form(("image", "a", JPEG), ("ingredients", "list.txt", b"egg\n")), FORM, "/v1/segment?format=png"),
    ):
        answer = post(app, body, content_type, path).json()
        assert ([one["name"] for one in answer["ingredients"]], answer["label_map"] is None) == (["egg"], False)
    both = form(("image", "a", JPEG), ("ingredients", None, b"rice"), ("ingredients", None, b"egg"))
    assert len(post(app, both, FORM).json()["ingredients"]) == 2


def test_prompt_and_zero_shot_read_the_same(app: Any) -> None:
    whole = as_json(image=B64, points=[[3, 4, 1]])
    assert post(app, whole, JSON, "/v1/prompt").json()["masks"][0]["pixels"] == 16 * WIDTH
    public = post(app, JPEG, "image/jpeg", "/v1/segment").json()["image"]["id"]
    assert post(app, as_json(image_id=public, box=[0, 0, 9, 9]), JSON, "/v1/prompt").status in (200, 404)
    names = as_json(file=URL, names=["rice", "egg"], masks=True)
    assert len(post(app, names, JSON, "/v1/zero-shot").json()["masks"]) == 3
    for path, part in (("/v1/prompt", "points=[["), ("/v1/zero-shot", "names=rice")):
        reply = post(app, form(("image", None, b"lunch.jpg")), FORM, path)
        assert part in reply.json()["error"]["hint"]


def test_gzip_is_decompressed_within_the_limit(app: Any) -> None:
    packed = {"content-encoding": "gzip"}
    assert post(app, gzip.compress(JPEG), "image/jpeg", headers=packed).status == 200
    assert post(app, gzip.compress(as_json(image=B64)), JSON, headers=packed).status == 200
    assert post(app, JPEG, "image/jpeg", headers=packed).status == 200  # it is not compressed after all
    assert post(app, gzip.compress(bytes(5_000_000)), "image/jpeg", headers=packed).code == "body_too_large"
    assert post(app, gzip.compress(JPEG)[:-20], "image/jpeg", headers=packed).code == "bad_request"
    assert post(app, JPEG, "image/jpeg", headers={"content-encoding": "br"}).code == "unsupported_encoding"


REFUSED = {
    "no @": (form(("image", None, b"lunch.jpg")), FORM, "not_an_image", "an @ is before its name"),
    "-d image=@lunch.jpg": (b"image=@lunch.jpg", URLENCODED, "not_an_image", "'@lunch.jpg', the name of a file"),
    "a word": (form(("image", None, b"lunch")), FORM, "not_an_image", "the text 'lunch'"),
    "an address": (as_json(image="https://x.example/a.jpg"), JSON, "address_not_fetched", "nothing is fetched"),
    "an address in a bucket": (form(("image", None, b"s3://b/a.jpg")), FORM, "address_not_fetched", "s3://b/a.jpg"),
    "an empty field": (form(("image", None, b"")), FORM, "no_image", "an empty 'image'"),
    "an empty file": (form(("image", "a.jpg", b"")), FORM, "empty_image", "0 bytes"),
    "no file chosen": (form(("image", "", b"")), FORM, "no_image", "'image'"),
    "nothing": (b"", "", "no_image", "an empty body"),
    "an empty object": (b"{}", JSON, "no_image", "JSON"),
    "two images": (form(("image", "a", JPEG), ("image", "b", JPEG)), FORM, "several_images", "2 images"),
    "two fields": (form(("image", "a", JPEG), ("file", "b", PNG)), FORM, "several_images", "image, file"),
    "a list of images": (as_json(image=[B64, B64]), JSON, "several_images", "one request takes one"),
    "a list of requests": (json.dumps([{"image": B64}]).encode(), JSON, "several_images", "a list"),
    "an object": (as_json(image={"data": B64}), JSON, "not_an_image", "a JSON object"),
    "numbers": (as_json(image=list(JPEG)), JSON, "too_many_values", "base64"),
    "cut off": (as_json(image=URL[:-7]), JSON, "damaged_image", "cut off"),
    "cut off, another name": (as_json(image=B64[:-7]), JSON, "damaged_image", "cut off"),
    "cut JSON": (as_json(image=B64)[:-9], JSON, "bad_request", '{"image": '),
    "curl -d": (JPEG.translate(None, b"\0\r\n"), URLENCODED, "bad_request", "--data-binary"),
    "curl -d of a PNG": (PNG.translate(None, b"\0\r\n"), URLENCODED, "bad_request", "--data-binary"),
    "XML": (b"<image/>", "application/xml", "not_an_image", "'<image/>'"),
    "a near name": (form(("image", "a", JPEG), ("ingredient", None, b"egg")), FORM, "unknown_field", "'ingredient'"),
    "another path's field": (as_json(image=B64, points=[[1, 1, 1]]), JSON, "unknown_field", "'points'"),
    "two formats": (form(("image", "a", JPEG), ("format", None, b"png"), ("format", None, b"rle")), FORM,
                    "sent_twice", "format"),
    "two keys": (b'{"image": "' + B64.encode() + b'", "image": "' + B64.encode() + b'"}', JSON, "several_images",
                 "2 images"),
    "a torn form": (form(("image", "a.jpg", JPEG))[:80], FORM, "no_image", "a form"),
    "no form at all": (b"hello", FORM, "bad_request", "multipart"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_error_names_what_came_and_a_correct_command(app: Any, name: str) -> None:
    body, content_type, code, said = REFUSED[name]
    reply = post(app, body, content_type)
    error = reply.json()["error"]
    assert 400 <= reply.status < 500 and reply.code == code, error
    assert said in error["message"]
    assert "curl -F image=@lunch.jpg http://meals.example:9000/v1/segment" in error["hint"]


def test_a_similar_name_is_suggested(app: Any) -> None:
    reply = post(app, as_json(image=B64, ingredient=["egg"]), JSON)
    assert "did you mean ingredients?" in reply.json()["error"]["hint"]


@pytest.mark.parametrize("body", [b'{"image": [' + b"[]," * 40_000 + b"[]]}", b'{"a":' * 9000, b"[" * 9000])
def test_json_that_would_take_much_memory_is_not_parsed(app: Any, body: bytes) -> None:
    assert post(app, body, JSON).status in (400, 422)


def test_the_wrong_method_and_the_wrong_path_say_the_right_ones(app: Any) -> None:
    for method in ("GET", "PUT", "DELETE"):
        reply = post(app, JPEG, "image/jpeg", method=method)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")
        assert "curl -F image=@lunch.jpg http://meals.example:9000/v1/segment" in reply.json()["error"]["hint"]
    for path in ("/segment", "/predict", "/v1/zeroshot", "/v2/segment"):
        reply = post(app, JPEG, "image/jpeg", path)
        assert (reply.status, reply.code) == (404, "not_found")
        error = reply.json()["error"]
        assert path in error["message"]
        assert "/v1/segment, /v1/prompt, /v1/zero-shot" in error["hint"]
    assert "names=rice" in post(app, b"", "", "/zero_shot").json()["error"]["hint"]
    reply = post(app, JPEG, "image/jpeg", "/v1/models")
    assert (reply.status, reply.headers["allow"]) == (405, "GET")
    assert "curl http://meals.example:9000/v1/models" in reply.json()["error"]["hint"]


def test_a_trailing_slash_is_accepted(app: Any) -> None:
    assert post(app, JPEG, "image/jpeg", "/v1/segment/").status == 200


def test_an_invalid_host_header_is_not_repeated(app: Any) -> None:
    reply = post(app, b"", headers={"host": "<script>"})
    assert "http://127.0.0.1:8000/v1/segment" in reply.json()["error"]["hint"]
