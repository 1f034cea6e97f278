"""`foodseg export --web`: the page, opened from a file in a real browser, labels images as `foodseg predict` does."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from foodseg.cli.main import run
from foodseg.data.image_io import decode_mask
from foodseg.demo.synthetic import draw_meal
from foodseg.errors import UserError
from foodseg.export.web_runtime import web_runtime
from foodseg.predict.segmenter import load
from tests.support.page_view import saved, upload
from tests.support.tiny_checkpoints import write_checkpoint

pytest.importorskip("onnxruntime")
EQUAL = 0.995  # of the pixels: browsers and libjpeg differ in a level here and there


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model that is shown mirrored images, too, and its page; onnxruntime-web comes from npm, once."""
    folder = tmp_path_factory.mktemp("exported")
    try:
        web_runtime()
    except UserError as error:
        # a registry that the project's own installation does not need
        if "npm is not installed" in str(error) or "npm cannot fetch it" in str(error):
            pytest.skip(f"npm missing: {error}")
        raise
    write_checkpoint(folder / "run", 1, "eval.longest_side=160", "eval.flip=true", "eval.logit_adjustment=0.5")
    assert run(["export", str(folder / "run"), "--out", str(folder / "out"), "--web"]) == 0
    return folder / "out"


@pytest.fixture
def page(browser: Browser, exported: Path) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page, wrong = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    local = ("file:", "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(local) else wrong.append(asked.url))
    page.goto((exported / "index.html").as_uri())
    yield page
    context.close()
    assert wrong == []


def images(folder: Path) -> list[Path]:
    """A PNG, a JPEG that is decoded at a reduced scale, and a small turned JPEG."""
    wide, large, small = draw_meal(14, 300, 400)[0], draw_meal(3, 1200, 1603)[0], draw_meal(5, 180, 240)[0]
    cv2.imwrite(str(folder / "wide.png"), wide[..., ::-1])
    cv2.imwrite(str(folder / "large.jpg"), large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(small).save(folder / "turned.jpg", quality=92, exif=turned)
    return [folder / name for name in ("wide.png", "large.jpg", "turned.jpg")]


def test_it_labels_images_as_predict_does(page: Page, exported: Path, tmp_path: Path) -> None:
    model = load(exported)
    for image in images(tmp_path):
        upload(page, image)
        expect(page.locator("#made-by")).to_contain_text("of which the network")
        expected = model.predict(image)
        name, data = saved(page, "#save-mask")
        ids = decode_mask(data)
        assert name == f"{image.stem}.mask.png" and ids.shape == expected.ids.shape
        assert len(np.unique(expected.ids)) > 2, "an image of one class shows nothing"
        assert np.mean(ids == expected.ids) >= EQUAL, image.name

        found = json.loads(saved(page, "#save-json")[1])
        assert (found["image"], found["height"], found["width"]) == (image.name, *ids.shape)
        for ours, theirs in zip(found["ingredients"][:2], expected.ingredients[:2], strict=True):
            assert ours["name"] == theirs.name
            assert ours["share_of_food"] == pytest.approx(theirs.share_of_food, abs=0.01)
            assert ours["confidence"] == pytest.approx(theirs.confidence, abs=0.02)


def test_what_it_cannot_read_is_said(page: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_bytes(b"\xff\xd8 no picture")
    page.set_input_files("#choose", tmp_path / "notes.jpg")
    expect(page.locator("#problem-message")).to_have_text("This browser cannot read the file as a picture.")
    expect(page.locator("#start")).to_be_visible()
    upload(page, images(tmp_path)[0])
    expect(page.locator("#problem")).to_be_hidden()
