"""The page of an endpoint in a real browser: it gets three meals, one is clicked on, and screenshots are taken."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from experiments.item_queue import ItemError
from tests.support.browser import NAMES, find_browser

SCREENS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
}
TIMEOUT_MS = 120_000


def photograph_page(url: str, images: Sequence[Path], out: Path) -> dict[str, list[list[str]]]:
    """Writes `page-<screen>-start.png` and `page-<screen>-<n>.png`, the last one with an outline.

    Returns:
        By screen the lines of the legend of each image.

    Raises:
        ItemError: there is no browser, an image gives no ingredients, or something goes wrong in the page.
    """
    program = find_browser()
    if program is None:
        raise ItemError(f"no browser: install one of {', '.join(NAMES)}")
    out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            return {screen: _photographed(browser, url, images, out, screen) for screen in SCREENS}
        finally:
            browser.close()


def _photographed(browser: Browser, url: str, images: Sequence[Path], out: Path, screen: str) -> list[list[str]]:
    context = browser.new_context(**SCREENS[screen])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((url, "blob:", "data:")) else wrong.append(asked.url))
    page.goto(url)
    page.wait_for_selector("#model option", state="attached")  # the page knows what the server can do
    page.screenshot(path=out / f"page-{screen}-start.png", full_page=True)
    legends = []
    for number, image in enumerate(images, start=1):
        page.goto(url)  # else the elements waited for below would still be those of the image before
        page.set_input_files("#choose", image)
        page.wait_for_selector("#result:not([hidden])")
        page.wait_for_selector("#busy", state="hidden")
        legend = page.locator("#legend li:visible").all_inner_texts()
        if not legend or page.locator("#problem").is_visible():
            said = page.locator("#problem").inner_text() or "no ingredient"
            raise ItemError(f"{image.name}: the page shows {said}")
        legends.append([" ".join(line.split()) for line in legend])
        if number == len(images):
            _outline(page)
        page.screenshot(path=out / f"page-{screen}-{number}.png", full_page=True)
    context.close()
    if wrong:
        raise ItemError(f"the page went wrong: {wrong[0]}")
    return legends


def _outline(page: Any) -> None:
    """Clicks on the middle of the image and waits for SAM's mask."""
    page.locator("#stage").click()
    page.wait_for_selector("#selection:not([hidden])")
    page.wait_for_selector("#busy", state="hidden")
