"""Broken, huge, wrong and odd requests to the endpoint, reproducible from a seed.

for request in hostile_requests(seed=0, count=5000):
    ...send request.method, request.path, request.headers, request.body...
"""

import io
import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

STATUSES = (200, 307, 400, 401, 404, 405, 408, 413, 415, 422, 429, 503)  # what an answer may have; no 500 among them
HONEST_503 = (
    "sam_not_configured",
    "clip_not_configured",
    "regions_not_configured",
    "model_unavailable",
    "starting",
    "no_model",
    "unavailable",
)
POSTS = ("/v1/segment", "/v1/prompt", "/v1/zero-shot", "/v1/classify-regions")
PATHS = (
    *POSTS, "/v1/classes", "/v1/models", "/healthz", "/readyz", "/", "/page/app.js", "/page/..%2f..%2fetc/passwd",
    "/v1/segment/", "//v1//segment", "/v1/%00", "/page/../../secret", "/v2/segment", "/metrics", "/.env",
    "/%F0%9F%8D%95", "/v1/classes?model=" + "a" * 3000, "/v1/classes?model=%00&model=%ff", "/" + "x" * 5000,
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "BREW")
TEXTS = (
    "", " ", "\0", "null", "NaN", "-1", "1e999", "9" * 400, "true", "[]", "{}", "[[]]", "[" * 5000, '{"a":' * 2000,
    "a" * 70_000, "' OR 1=1 --", "../../etc/passwd", "s3://bucket/key", "file:///etc/passwd", "<script>x</script>",
    "\u202e\u0000\ud7ff", "%s%n", "${jndi:ldap://x}", "meals@0123456789ab", "rice,rice", ",,,", "[[1,2,1]]",
    "[[1e308,1e308,1]]", "[[0,0,1],[0,0,0]]", "[0,0,1,1]", "[5,5,1,1]", "[null,null,null,null]", '["a","b"]',
    json.dumps([[1, 1, 1]] * 1000), json.dumps(["n" + str(i) for i in range(10_000)]), "rice,egg", "n" * 10_240,
    "rice\a,\u200begg", "rice|steamed rice,rice", "|,|", "rle", "png", "polygons", "sam",
    '[{"size":[60,80],"counts":[0,4800]}]', '[{"size":[1,1],"counts":"' + "~" * 3000 + '"}]', '[[[1,1,9,1,9,9]]]',
    '{"images":[{},{}],"annotations":[]}', '[[[-1e9,0,1e9,0,0,1e9]]]', '["' + "-" * 5000 + '1"]',
)  # fmt: skip
FIELDS = ("image", "image_id", "model", "ingredients", "refine", "format", "points", "box", "names", "masks",
          "recheck", "pixels_per_cm", "", "x" * 2000, "image[]", '"; filename="x')  # fmt: skip


@dataclass(frozen=True)
class HostileRequest:
    """path: with its query, percent-encoded. headers: without those that a client library sets."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def hostile_requests(seed: int, count: int) -> Iterator[HostileRequest]:
    """Yields requests; about half of them reach a route with an image of some kind."""
    draw = random.Random(seed)
    for _ in range(count):
        kind = draw.choices((_posted, _malformed, _wandering), (6, 2, 2))[0]
        yield kind(draw)


def good_image(draw: random.Random) -> bytes:
    """Returns a small valid image."""
    height, width = draw.randint(1, 90), draw.randint(1, 90)
    pixels = np.random.default_rng(draw.getrandbits(32)).integers(0, 256, (height, width, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, draw.choice(("JPEG", "PNG", "WEBP")))
    return stream.getvalue()


def multipart(fields: list[tuple[str, str | None, bytes]], boundary: str = "b0undary") -> bytes:
    """Returns a multipart/form-data body of (name, file name, content)."""
    parts = []
    for name, filename, content in fields:
        file = "" if filename is None else f'; filename="{filename}"'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        parts.append(head.encode("utf-8", "surrogatepass") + content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def _posted(draw: random.Random) -> HostileRequest:
    """A well-formed form with an image of any kind and odd fields."""
    fields: list[tuple[str, str | None, bytes]] = []
    if draw.random() < 0.9:
        fields.append(("image", draw.choice(("a.jpg", "", "\u00e9\u0301.png", "../../x", "a" * 3000)), image(draw)))
    for name in draw.sample(FIELDS, draw.randint(0, 4)):
        text = draw.choice(TEXTS).encode("utf-8", "surrogatepass")
        fields.append((name, "f.txt" if draw.random() < 0.15 else None, text))
    if draw.random() < 0.1:
        fields += fields * draw.randint(1, 10)
    draw.shuffle(fields)
    headers = {"Content-Type": "multipart/form-data; boundary=b0undary", **_odd_headers(draw)}
    return HostileRequest("POST", draw.choice(POSTS), headers, multipart(fields))


def _malformed(draw: random.Random) -> HostileRequest:
    """A body that is not what its header says."""
    good = multipart([("image", "a.jpg", image(draw)), ("format", None, b"rle")])
    body = draw.choice((
        good[: draw.randint(0, len(good))], good.replace(b"\r\n", b"\n"), good.replace(b"b0undary", b"other"),
        draw.randbytes(draw.randint(0, 3000)), b"--b0undary" * 500, b"", b'{"image": "abc"}', b"image=abc&format=rle",
        b"--b0undary\r\n" + b"X-Long: " + b"y" * 40_000 + b"\r\n\r\n", b"\r\n" * 1000,
        b'--b0undary\r\nContent-Disposition: form-data; name="image"; filename*=utf-8\'\'%ff\r\n\r\nx\r\n--b0undary--',
    ))  # fmt: skip
    kind = draw.choice((
        "multipart/form-data; boundary=b0undary", "multipart/form-data", "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "z" * 3000, "application/json", "application/x-www-form-urlencoded",
        "image/jpeg", "text/plain; charset=utf-7", "", "multipart/mixed; boundary=b0undary", ";;;===",
    ))  # fmt: skip
    return HostileRequest("POST", draw.choice(POSTS), {"Content-Type": kind, **_odd_headers(draw)}, body)


def _wandering(draw: random.Random) -> HostileRequest:
    """Any method on any path."""
    method, path = draw.choice(METHODS), draw.choice(PATHS)
    body = b"" if method in ("GET", "HEAD") else draw.randbytes(draw.randint(0, 200))
    return HostileRequest(method, path, _odd_headers(draw), body)


def _odd_headers(draw: random.Random) -> dict[str, str]:
    every = {
        "Authorization": draw.choice(("Bearer wrong", "Bearer", "Basic eDp5", "Bearer " + "k" * 5000, "\xff\xfe")),
        "X-API-Key": draw.choice(("", "wrong", "\x7f")),
        "X-Request-ID": draw.choice(("a", "x" * 500, "a b", "<b>", "\xe4")),
        "Origin": draw.choice(("https://other.example", "null")),
        "Accept": "application/xml",
        "Accept-Encoding": "gzip, br, zstd, bogus",
        "Content-Encoding": "gzip",
        "Range": "bytes=5-1",
        "X-Forwarded-For": "127.0.0.1",
        "Cookie": "a=" + "b" * 3000,
        "serve_multiplexed_model_id": "../x",
    }
    return {name: every[name] for name in draw.sample(list(every), draw.choice((0, 0, 1, 2, 4)))}


def image(draw: random.Random) -> bytes:
    """Returns the bytes of an image that is good, damaged, huge by its header, or not an image at all."""
    return draw.choice(_IMAGES)(draw)


def _truncated(draw: random.Random) -> bytes:
    data = good_image(draw)
    return data[: draw.randint(0, len(data) - 1)]


def _noisy(draw: random.Random) -> bytes:
    data = bytearray(good_image(draw))
    for _ in range(draw.randint(1, 40)):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(data)


def _only_header(draw: random.Random) -> bytes:
    start = draw.choice(
        (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x10\0\0\0WEBPVP8 ", b"RIFF\xff\xff\xff\xffWEBPVP8X")
    )
    return start + draw.randbytes(draw.randint(0, 3000))


def _png_bomb(draw: random.Random) -> bytes:
    """A valid PNG header over far too many pixels, with compressed zeros behind it."""
    side = draw.choice((20_000, 60_000, 2**31 - 1))
    rows = zlib.compress(bytes(200_000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", rows)
    )


def _text_bomb(draw: random.Random) -> bytes:
    """A small image with a compressed comment of 20 MB."""
    return _with_comment()


@cache
def _with_comment() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    comment = b"Comment\0\0" + zlib.compress(bytes(20_000_000))
    return data.getvalue()[:33] + _chunk(b"zTXt", comment) + data.getvalue()[33:]


def _huge_webp(draw: random.Random) -> bytes:
    return b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + b"\xfe\xff\xff" * 2 + draw.randbytes(200)


def _other_format(draw: random.Random) -> bytes:
    if draw.random() < 0.5:
        return draw.choice(
            (b"<svg onload=alert(1)>", b"%PDF-1.4", b"PK\3\4", b"\0\0\0\x18ftypheic", b"\x7fELF", b"#!/bin/sh")
        )
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, draw.choice(("GIF", "BMP", "TIFF", "ICO")))
    return data.getvalue()


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


_IMAGES: tuple[Callable[[random.Random], bytes], ...] = (
    good_image, good_image, _truncated, _noisy, _noisy, _only_header, _png_bomb, _text_bomb, _huge_webp,
    _other_format, lambda draw: draw.randbytes(draw.randint(0, 2000)), lambda draw: b"",
)  # fmt: skip
