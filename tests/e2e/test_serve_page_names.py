"""The page looks for any names with CLIP, also where no trained model is configured."""

import numpy as np
from playwright.sync_api import expect

from foodseg.demo.synthetic_ingredients import SYNTHETIC_CLASSES
from tests.support.page_server import meal_server
from tests.support.page_view import middle_of, seen

NAMES = SYNTHETIC_CLASSES.names


def test_two_names_colour_two_regions_without_a_trained_model(show, meal, image_file):
    image, mask = meal
    counts = np.bincount(mask.ravel(), minlength=len(NAMES))
    counts[0] = 0
    first, second = np.argsort(-counts, kind="stable")[:2].tolist()
    with meal_server(SYNTHETIC_CLASSES, [meal], trained=False, clip=True, sam=False) as server:
        page = show(server)
        page.set_input_files("#choose", str(image_file))
        expect(page.locator("#any-names")).to_be_visible()
        expect(page.locator("#result")).to_be_hidden()
        expect(page.locator("#problem")).to_be_hidden()
        note = page.locator("#any-names-note")
        expect(note).to_have_text(
            "There is no trained model here. CLIP (tiny-clip) compares the picture with your names; "
            "it was not trained on food."
        )
        page.fill("#wanted", f"{NAMES[first]}, {NAMES[second]}, dragon fruit")
        page.press("#wanted", "Enter")
        expect(page.locator("#result")).to_be_visible()
        assert page.locator("#legend .name").all_inner_texts() == [NAMES[first], NAMES[second]]
        expect(page.locator("#made-by")).to_have_text("CLIP tiny-clip, not trained on food")
        expect(page.locator("#again")).to_be_hidden()
        shot = seen(page)
        for index in (first, second):  # the regions are coloured
            x, y = middle_of(mask == index)
            assert np.abs(shot[y, x] - image[y, x]).max() > 20
        x, y = middle_of(mask == 0)
        assert np.abs(shot[y, x] - image[y, x]).max() <= 30


def test_names_beside_a_trained_model(show, meal, image_file):
    _, mask = meal
    largest = int(np.argmax(np.bincount(mask.ravel(), minlength=len(NAMES))[1:])) + 1
    with meal_server(SYNTHETIC_CLASSES, [meal], clip=True) as server:
        page = show(server)
        page.set_input_files("#choose", str(image_file))
        expect(page.locator("#result")).to_be_visible()
        expect(page.locator("#made-by")).to_contain_text("Model meals")
        page.fill("#wanted", f"dragon fruit,{NAMES[largest]}")
        page.press("#wanted", "Enter")
        expect(page.locator("#made-by")).to_contain_text("CLIP tiny-clip")
        assert page.locator("#legend .name").all_inner_texts() == [NAMES[largest]]
        # the model answers again with "Look again"
        page.click("#again")
        expect(page.locator("#made-by")).to_contain_text("Model meals")


def test_a_server_without_clip_shows_no_box(server, show, image_file):
    page = show(server)
    page.set_input_files("#choose", str(image_file))
    expect(page.locator("#result")).to_be_visible()
    expect(page.locator("#any-names")).to_be_hidden()
