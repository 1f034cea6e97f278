"""The page in a real browser, over the whole HTTP app with plain fakes behind it: no Ray, no model."""

import base64
import json

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect
from pycocotools import mask as coco

from foodseg.data.image_io import decode_mask
from foodseg.demo.synthetic_ingredients import SYNTHETIC_CLASSES
from foodseg.report.overlay import food_shares
from tests.support.page_server import confidence_of, meal_server, piece_at
from tests.support.page_view import at, largest, middle_of, saved, seen, upload

OPACITY = 0.55  # where the slider stands at first


# --- an image comes in ---


def test_upload_colours_names_and_measures(server, show, meal, image_file):
    image, mask = meal
    table = SYNTHETIC_CLASSES
    page = show(server)
    upload(page, image_file)

    counts = np.bincount(mask.ravel(), minlength=len(table))
    counts[0] = 0
    order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    assert page.locator("#legend .name").all_inner_texts() == [
        table.names[index] + (" unsure" if confidence_of(index) < 0.5 else "") for index in order
    ]
    shares = [f"{100 * counts[index] / counts.sum():.1f} %" for index in order]
    assert page.locator("#legend .share").all_inner_texts() == shares
    sure = [f"{round(100 * confidence_of(index))} %" for index in order]
    assert page.locator("#legend .sure").all_inner_texts() == sure

    shot = seen(page)
    for index in order:
        x, y = middle_of(mask == index)
        blend = (1 - OPACITY) * image[y, x] + OPACITY * table.palette()[index]
        assert np.abs(shot[y, x] - blend).max() <= 30, table.names[index]  # the image is scaled: not exact
    x, y = middle_of(mask == 0)
    assert np.abs(shot[y, x] - image[y, x]).max() <= 30


def test_the_slider_takes_the_colour_away(server, show, meal, image_file):
    image, mask = meal
    page = show(server)
    upload(page, image_file)
    x, y = middle_of(mask == largest(mask))
    coloured = seen(page)[y, x]
    page.fill("#opacity", "0")
    plain = seen(page)[y, x]

    assert np.abs(plain - image[y, x]).max() <= 30
    assert np.abs(coloured - plain).max() > 40
    expect(page.locator("#opacity-value")).to_have_text("0 %")


def test_dropped_and_pasted_images_are_taken(server, show, image_file):
    page = show(server)
    give = """([event, name, data]) => {
      const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
      const transfer = new DataTransfer();
      transfer.items.add(new File([bytes], name, {type: "image/png"}));
      const made = event === "drop" ? new DragEvent(event, {dataTransfer: transfer, bubbles: true, cancelable: true})
                                    : new ClipboardEvent(event, {clipboardData: transfer, bubbles: true});
      document.body.dispatchEvent(made);
    }"""
    for event in ("drop", "paste"):
        page.evaluate(give, [event, f"{event}.png", base64.b64encode(image_file.read_bytes()).decode()])
        expect(page.locator("#result")).to_be_visible()
        assert saved(page, "#save-json")[0] == f"{event}.json"


# --- hover to see, click to hide ---


def test_hover_names_what_is_there_and_a_click_hides_it(server, show, meal, image_file):
    image, mask = meal
    page = show(server)
    upload(page, image_file)
    index = largest(mask)
    x, y = middle_of(mask == index)
    name = SYNTHETIC_CLASSES.names[index]

    page.mouse.move(*at(page, x, y))
    expect(page.locator("#tip-text")).to_contain_text(name)
    expect(page.locator("#legend li.lit .name")).to_contain_text(name)
    page.mouse.move(5, 5)
    expect(page.locator("#tip")).to_be_hidden()

    row = page.locator("#legend button").first
    row.click()
    expect(row).to_have_attribute("aria-pressed", "false")
    page.mouse.move(5, 5)
    assert np.abs(seen(page)[y, x] - image[y, x]).max() <= 30
    row.click()
    page.mouse.move(5, 5)
    assert np.abs(seen(page)[y, x] - image[y, x]).max() > 40
    page.click("#toggle-all")
    assert page.locator("#legend [aria-pressed=true]").count() == 0


@pytest.mark.parametrize("folded", [True, False])
def test_traces_are_folded_away_where_there_are_several(show, tmp_path, folded):
    """Three that are unsure and under 1 % of the food; two are not worth a fold."""
    mask = np.zeros((200, 300), np.uint8)
    mask[20:180, 20:220] = 1
    unsure = [5, 8, 11] if folded else [5, 8]
    for position, index in enumerate(unsure):
        mask[20 + 40 * position : 30 + 40 * position, 240:250] = index
    assert all(confidence_of(index) < 0.5 for index in unsure)
    image = SYNTHETIC_CLASSES.palette()[mask].astype(np.uint8)
    path = tmp_path / "traces.png"
    cv2.imwrite(str(path), image[:, :, ::-1])
    with meal_server(SYNTHETIC_CLASSES, [(image, mask)]) as server:
        page = show(server)
        upload(page, path)
        assert page.locator("#legend li:visible").count() == (1 if folded else 3)
        expect(page.locator("#summary")).to_contain_text(f"{1 + len(unsure)} ingredients")
        if not folded:
            expect(page.locator("#traces")).to_be_hidden()
            return
        page.get_by_role("button", name="Show 3 traces").click()
        assert page.locator("#legend li:visible").count() == 4
        page.get_by_role("button", name="Fold 3 traces").click()
        assert page.locator("#legend li:visible").count() == 1


# --- outline something and name it ---


def test_a_click_outlines_and_a_name_changes_the_plate(server, show, meal, image_file):
    _, mask = meal
    page = show(server)
    upload(page, image_file)
    index = largest(mask)
    x, y = middle_of(mask == index)
    before = seen(page)[y + 8, x]
    page.mouse.click(*at(page, x, y))
    expect(page.locator("#selection-text")).to_contain_text(f"Taken for {SYNTHETIC_CLASSES.names[index]}")
    assert np.abs(seen(page)[y + 8, x] - before).max() > 10  # the veil; the marker stands at x, y
    page.fill("#name", "  secret   sauce ")
    page.press("#name", "Enter")

    new, piece = len(SYNTHETIC_CLASSES), piece_at(mask, x, y)
    expected = np.where(piece, new, mask)
    row = page.locator("#legend li", has_text="secret sauce")
    expect(row.locator(".share")).to_have_text(f"{100 * piece.sum() / (mask > 0).sum():.1f} %")
    expect(row.locator(".sure")).to_have_text("yours")
    name, data = saved(page, "#save-mask")
    assert name == "lunch.mask.png"
    np.testing.assert_array_equal(decode_mask(data), expected)
    name, data = saved(page, "#save-json")
    answer = json.loads(data)
    assert name == "lunch.json" and answer["edited"] is True
    for item in answer["ingredients"]:
        np.testing.assert_array_equal(coco.decode(item["mask"]), expected == item["id"])
        assert item["pixels"] == (expected == item["id"]).sum()

    page.click("#undo")
    expect(row).to_have_count(0)
    np.testing.assert_array_equal(decode_mask(saved(page, "#save-mask")[1]), mask)
    assert "edited" not in json.loads(saved(page, "#save-json")[1])


def test_a_known_name_joins_its_class_and_what_is_not_food_goes(server, show, meal, image_file):
    _, mask = meal
    page = show(server)
    upload(page, image_file)
    one, other = (entry[0] for entry in food_shares(mask, SYNTHETIC_CLASSES)[:2])
    x, y = middle_of(mask == one)
    page.mouse.click(*at(page, x, y))
    page.fill("#name", SYNTHETIC_CLASSES.names[other].upper())
    page.click("text=Name it")
    expected = np.where(piece_at(mask, x, y), other, mask)
    np.testing.assert_array_equal(decode_mask(saved(page, "#save-mask")[1]), expected)
    x, y = middle_of(expected == other)
    page.mouse.click(*at(page, x, y))
    page.click("#not-food")
    expected = np.where(piece_at(mask, x, y), 0, expected)
    np.testing.assert_array_equal(decode_mask(saved(page, "#save-mask")[1]), expected)


def test_the_image_is_sent_again_only_where_it_was_forgotten(server, show, meal, image_file):
    _, mask = meal
    page = show(server)
    upload(page, image_file)
    x, y = middle_of(mask == largest(mask))
    for calls in (["prompt", "embed", "prompt"], ["prompt"], ["prompt", "embed", "prompt"]):
        if len(server.sam.remembered) and len(calls) == 3:
            server.sam.remembered.clear()
        server.sam.calls.clear()
        page.mouse.click(*at(page, x, y))
        page.wait_for_selector("#selection:not([hidden])")
        expect(page.locator("#busy")).to_be_hidden()
        assert server.sam.calls == calls
        page.click("#drop")


def test_clicks_add_and_take_away(server, show, meal, image_file):
    _, mask = meal
    page = show(server)
    upload(page, image_file)
    one, other = (entry[0] for entry in food_shares(mask, SYNTHETIC_CLASSES)[:2])
    page.mouse.click(*at(page, *middle_of(mask == one)))
    expect(page.locator("#other")).to_have_text("Other size 1/3")
    page.click("#other")
    expect(page.locator("#other")).to_have_text("Other size 2/3")
    page.check("input[value=adds]")
    page.mouse.click(*at(page, *middle_of(mask == other)))
    expect(page.locator("#points .in")).to_have_count(2)
    page.keyboard.down("Alt")
    page.mouse.click(*at(page, *middle_of(mask == other)))
    page.keyboard.up("Alt")
    expect(page.locator("#points .out")).to_have_count(1)
    page.check("input[value=anew]")
    page.mouse.click(*at(page, *middle_of(mask == other)))
    expect(page.locator("#points i")).to_have_count(1)


def test_clicks_that_do_not_wait_for_the_outline_all_count(server, show, meal, image_file):
    _, mask = meal
    page = show(server)
    upload(page, image_file)
    one, other, third = (middle_of(mask == entry[0]) for entry in food_shares(mask, SYNTHETIC_CLASSES)[:3])
    server.sam.delay = 0.5
    page.mouse.click(*at(page, *one))
    page.keyboard.down("Shift")
    page.mouse.click(*at(page, *other))
    page.keyboard.up("Shift")
    page.keyboard.down("Alt")
    page.mouse.click(*at(page, *third))
    page.keyboard.up("Alt")
    expect(page.locator("#selection")).to_be_visible()
    expect(page.locator("#busy")).to_be_hidden()
    expect(page.locator("#points .in")).to_have_count(2)
    expect(page.locator("#points .out")).to_have_count(1)
    page.fill("#name", "both")
    page.click("text=Name it")
    server.sam.delay = 0.0
    expected = piece_at(mask, *one) | piece_at(mask, *other)
    np.testing.assert_array_equal(decode_mask(saved(page, "#save-mask")[1]) == len(SYNTHETIC_CLASSES), expected)


def test_everything_goes_by_keyboard(server, show, meal, image_file):
    _, mask = meal
    page = show(server)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    upload(page, image_file)
    page.focus("#stage")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("ArrowRight")  # the first press shows the cross, in the middle
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    x, y = mask.shape[1] // 2 + 10, mask.shape[0] // 2 + 1  # steps of 1/40 and 1/400 of the longer side
    seen = SYNTHETIC_CLASSES.names[mask[y, x]] if mask[y, x] else "no food"
    expect(page.locator("#announce")).to_contain_text(seen)
    page.keyboard.press("Enter")
    page.wait_for_selector("#selection:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "name"
    page.keyboard.type("gravy")
    page.keyboard.press("Enter")
    expect(page.locator("#legend")).to_contain_text("gravy")
    expected = np.where(piece_at(mask, x, y), len(SYNTHETIC_CLASSES), mask)
    np.testing.assert_array_equal(decode_mask(saved(page, "#save-mask")[1]), expected)


# --- names that the person gives ---


def test_provided_ingredients_guide_the_answer(server, show, meal, image_file):
    _, mask = meal
    page = show(server)
    upload(page, image_file)
    names = [SYNTHETIC_CLASSES.names[entry[0]] for entry in food_shares(mask, SYNTHETIC_CLASSES)[:2]]
    page.fill("#ingredient", f"{names[0]},  {names[1]}")
    page.press("#ingredient", "Enter")
    assert page.locator("#given button").all_inner_texts() == names
    page.click("#given button >> nth=1")
    page.click("#again")
    expect(page.locator("#legend li")).to_have_count(1)
    expect(page.locator("#legend .name")).to_contain_text(names[0])
    page.fill("#ingredient", "moon cheese")
    page.click("#again")
    expect(page.locator("#problem-message")).to_contain_text("moon cheese")
    expect(page.locator("#problem-retry")).to_be_hidden()


def test_a_model_without_text_fusion_says_so(show, meal, image_file):
    with meal_server(SYNTHETIC_CLASSES, [meal], conditioned=False) as server:
        page = show(server)
        upload(page, image_file)
        expect(page.locator("#guide-note")).to_be_visible()
        expect(page.locator("#ingredient")).to_be_disabled()
