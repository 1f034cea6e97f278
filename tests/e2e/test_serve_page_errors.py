"""The page says plainly what went wrong, and continues where it can; it fits a telephone; its arithmetic is exact."""

import base64
import hashlib
import json

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect
from pycocotools import mask as coco

from foodseg.classes import ClassTable
from foodseg.data.image_io import decode_mask
from foodseg.demo.synthetic_ingredients import SYNTHETIC_CLASSES
from foodseg.serve.http.api_keys import Key, Keys
from tests.support.page_server import Scripted, meal_server
from tests.support.page_view import at, largest, middle_of, saved, upload

WIDTHS = (320, 390, 768, 1280)
BUSY = Scripted(
    429, b'{"error": {"code": "too_many_requests", "message": "32 requests are in flight already", "hint": ""}}',
    headers=((b"retry-after", b"1"),),
)  # fmt: skip


# --- what went wrong ---


def test_a_file_that_is_not_an_image(server, show, image_file, tmp_path):
    page = show(server)
    (tmp_path / "menu.jpg").write_bytes(b"%PDF-1.7 not a picture")
    page.set_input_files("#choose", tmp_path / "menu.jpg")
    expect(page.locator("#problem-message")).to_have_text("The image is a PDF document.")
    expect(page.locator("#problem-hint")).to_have_text("Send a JPEG, PNG or WebP image.")
    expect(page.locator("#problem-request")).to_contain_text("Request ")
    expect(page.locator("#problem-retry")).to_be_hidden()  # it would end the same
    expect(page.locator("#start")).to_be_visible()
    upload(page, image_file)
    expect(page.locator("#problem")).to_be_hidden()


def test_a_key_is_asked_for_and_used(meal, show, image_file):
    keys = Keys((Key("canteen", hashlib.sha256(b"a-long-random-key").hexdigest()),))
    with meal_server(SYNTHETIC_CLASSES, [meal], keys=keys) as server:
        page = show(server)
        expect(page.locator("#problem-message")).to_have_text("This endpoint needs an API key.")
        page.fill("#key", "a-wrong-key-entirely")
        page.press("#key", "Enter")
        expect(page.locator("#problem-message")).to_have_text("This API key is not known.")
        page.fill("#key", "a-long-random-key")
        page.press("#key", "Enter")
        expect(page.locator("#problem")).to_be_hidden()
        upload(page, image_file)
        page.reload()
        upload(page, image_file)  # the tab remembers the key


def test_a_key_that_is_asked_for_late_resumes_the_request(server, show, image_file):
    page = show(server)
    refused = b'{"error": {"code": "missing_key", "message": "this endpoint needs an API key", "hint": ""}}'
    server.scripted["/v1/segment"] = [Scripted(401, refused)]
    page.set_input_files("#choose", image_file)
    page.fill("#key", "a-long-random-key")
    page.press("#key", "Enter")
    page.wait_for_selector("#legend li")
    expect(page.locator("#problem")).to_be_hidden()


def test_a_busy_server_is_asked_again(server, show, image_file):
    page = show(server)
    server.scripted["/v1/segment"] = [BUSY, BUSY]
    page.set_input_files("#choose", image_file)
    expect(page.locator("#busy-text")).to_have_text("32 requests are in flight already. Trying again in 1 s.")
    page.wait_for_selector("#legend li")
    assert server.scripted["/v1/segment"] == []
    expect(page.locator("#problem")).to_be_hidden()


def test_waiting_can_be_cancelled_and_taken_up_again(server, show, image_file):
    page = show(server)
    server.scripted["/v1/segment"] = [Scripted(503, BUSY.body, headers=((b"retry-after", b"600"),))]
    page.set_input_files("#choose", image_file)
    expect(page.locator("#busy-text")).to_contain_text("Trying again in 600 s")
    page.click("#cancel")
    expect(page.locator("#busy")).to_be_hidden()
    expect(page.locator("#problem")).to_be_hidden()
    page.click("#again-empty")
    page.wait_for_selector("#legend li")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Scripted(502, b"<h1>Bad gateway</h1>", b"text/html"), "The server answered with status 502"),
        (Scripted(413, b"too large", b"text/plain"), "The picture is too large for this server."),
        (Scripted(200, b"<h1>Log in</h1>", b"text/html"), "The server's answer cannot be read."),
        (Scripted(200, b"{}"), "The server's answer cannot be read."),
    ],
)
def test_answers_of_another_server(server, show, image_file, answer, message):
    page = show(server)
    server.scripted["/v1/segment"] = [answer]
    page.set_input_files("#choose", image_file)
    expect(page.locator("#problem-message")).to_contain_text(message)


def test_a_server_that_is_gone(meal, show, image_file):
    with meal_server(SYNTHETIC_CLASSES, [meal]) as server:
        page = show(server)
        upload(page, image_file)
        server.stop()
        page.click("#again")
        expect(page.locator("#problem-message")).to_have_text("The server cannot be reached.")
        expect(page.locator("#problem-retry")).to_be_visible()
        expect(page.locator("#legend li")).not_to_have_count(0)  # what was there stays


def test_without_sam_the_page_says_how_to_add_it(meal, show, image_file):
    with meal_server(SYNTHETIC_CLASSES, [meal], sam=False) as server:
        page = show(server)
        upload(page, image_file)
        expect(page.locator("#stage-hint")).to_contain_text("needs SAM")
        expect(page.locator("#refine")).to_be_disabled()
        page.mouse.click(*at(page, 200, 150))
        expect(page.locator("#problem-message")).to_contain_text("not configured")
        expect(page.locator("#problem-hint")).not_to_have_text("")
        assert page.locator("#points i").count() == 0


# --- a telephone ---


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_screen(server, show, meal, image_file, width):
    page = show(server, viewport={"width": width, "height": 800}, has_touch=width < 800, is_mobile=width < 800)
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) == width
    upload(page, image_file)
    assert page.evaluate(wide) == width
    x, y = at(page, *middle_of(meal[1] == largest(meal[1])))
    if width < 800:
        page.touchscreen.tap(x, y)
    else:
        page.mouse.click(x, y)
    page.wait_for_selector("#selection:not([hidden])")
    assert page.evaluate(wide) == width
    page.fill("#ingredient", "averyveryveryverylongnamewithoutanyspaceinitatallthatwouldnotfitonanytelephone")
    page.click("#again")
    page.wait_for_selector("#problem:not([hidden])")
    assert page.evaluate(wide) == width


def test_a_heavy_photograph_is_sent_smaller_and_upright(server, show, tmp_path):
    # noise does not compress: a file of more than 4 MiB, whose EXIF says that it lies on its side
    grain = np.random.default_rng(0).integers(0, 256, (2400, 1800, 3), np.uint8)
    data = cv2.imencode(".jpg", grain, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "heavy.jpg").write_bytes(data[:2] + segment + data[2:])
    assert len(data) > 4 * 2**20
    page = show(server)
    page.set_input_files("#choose", tmp_path / "heavy.jpg")
    expect(page.locator("#summary")).to_have_text("No ingredient found on this picture.")
    name, answer = saved(page, "#save-json")
    size = json.loads(answer)["image"]
    assert name == "heavy.json" and (size["width"], size["height"]) == (2048, 1536)


# --- arithmetic, against pycocotools and the class table ---


def test_run_lengths_are_those_of_pycocotools(server, show):
    page = show(server)
    rng = np.random.default_rng(3)
    masks = [rng.random((7, 5)) < share for share in (0.0, 0.3, 0.5, 1.0)]
    masks += [np.zeros((400, 300), bool), rng.random((400, 300)) < 0.001, np.eye(90, 120, dtype=bool)]
    masks[-3][50:350, 20:280] = True  # long runs: several groups of five bits
    there_and_back = """async ([mask, pixels]) => {
      const {fillMask, maskOf} = await import("/page/masks.js");
      const [height, width] = mask.size, labels = new Uint16Array(height * width);
      fillMask(labels, mask, 7);
      return [Array.from(labels).join("") === pixels, maskOf(labels, 7, width, height)];
    }"""
    for mask in masks:
        code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        code = {"size": list(code["size"]), "counts": code["counts"].decode()}
        pixels = "".join("7" if value else "0" for value in mask.ravel().tolist())
        assert page.evaluate(there_and_back, [code, pixels]) == [True, code]


def test_colours_are_those_of_the_class_table(server, show):
    page = show(server)
    table = ClassTable(tuple(f"class {index}" for index in range(300)))
    expected = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in table.palette()[1:].tolist()]
    found = page.evaluate(
        """async () => {
          const {colourOf} = await import("/page/masks.js");
          return Array.from({length: 299}, (_, index) => colourOf(index + 1));
        }"""
    )
    assert found == expected


@pytest.mark.parametrize("highest", [3, 254, 255, 40_000])
def test_the_saved_label_map_holds_ids(server, show, highest):
    page = show(server)
    ids = np.array([[0, 1, 2], [highest, highest, 0]])
    data = page.evaluate(
        """async ([ids, width, height, highest]) => {
          const {labelMapPng} = await import("/page/masks.js");
          const there = [1, 2, highest].map((id) => ({id, colour: "#204060"}));
          const blob = await labelMapPng(Uint16Array.from(ids), width, height, there);
          return btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())));
        }""",
        [ids.ravel().tolist(), 3, 2, highest],
    )
    decoded = decode_mask(base64.b64decode(data))
    np.testing.assert_array_equal(decoded, ids)
    assert decoded.dtype == (np.uint8 if highest < 255 else np.uint16)
