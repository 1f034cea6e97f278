"""The page of `foodseg export --web` in headless Chromium: are its ids those of `foodseg predict`, and how fast is it?

    pages(bench, run, data)["equal_ids"]     # of each of three images of val

Each image is shown several times, and the least time counts: other work on the machine only adds to it.
"""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, expect, sync_playwright

from experiments.foodmix import fresh
from experiments.item_queue import Bench, ItemError
from foodseg.data.image_io import decode_mask
from foodseg.export.images import split_images
from foodseg.predict.segmenter import load

IMAGES, PASSES = 3, 5
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_TOOK = re.compile(r"Took (\d+) ms, of which the network (\d+) ms")


def pages(bench: Bench, run: str, data: str) -> dict[str, Any]:
    """Exports a run with its page and shows it images of val."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise ItemError("no Chromium is installed")
    out = fresh(bench.work / "exported-page")
    done = bench.foodseg("export", run, "--out", out, "--calibrate", data, "--web")
    model = load(out)
    found: dict[str, Any] = {"sizes": [], "equal_ids": [], "ms": [], "network_ms": []}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto((out / "index.html").as_uri())
        for number, image in enumerate(split_images(data, "val", IMAGES)):
            file = out / f"image-{number}.jpg"
            file.write_bytes(image)
            took = [_labelled(page, file) for _ in range(PASSES)]
            with page.expect_download() as waiting:
                page.click("#save-mask")
            ids, expected = decode_mask(Path(waiting.value.path()).read_bytes()), model.predict(str(file)).ids
            found["sizes"].append(list(ids.shape))
            found["equal_ids"].append(round(float(np.mean(ids == expected)), 5))
            found["ms"].append(min(whole for whole, _ in took))
            found["network_ms"].append(min(network for _, network in took))
        browser.close()
    found["frames_per_second"] = round(1000 * IMAGES / sum(found["ms"]), 2)
    return {"bytes": done["files"]["index.html"], **found}


def _labelled(page: Page, file: Path) -> tuple[int, int]:
    """Returns milliseconds of an image: all, and the network alone."""
    page.set_input_files("#choose", file)
    expect(page.locator("#made-by")).to_have_text(_TOOK, timeout=120_000)
    took = _TOOK.search(page.inner_text("#made-by"))
    assert took is not None
    return int(took[1]), int(took[2])
