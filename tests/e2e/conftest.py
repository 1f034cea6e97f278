"""A tiny world for commands; a browser, a synthetic meal and a server that knows it for the page."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from foodseg.demo.synthetic import draw_meal
from foodseg.demo.synthetic_ingredients import SYNTHETIC_CLASSES
from tests.support.browser import find_browser
from tests.support.page_server import MealServer, meal_server
from tests.support.page_view import HEIGHT, WIDTH
from tests.support.tiny_world import make_world


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world (tests/support/tiny_world.py), made once for the tests of a file."""
    folder = tmp_path_factory.mktemp("made")
    make_world(folder)
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny world, and the working directory."""
    shutil.copytree(made, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = find_browser()
    if found is None:
        pytest.skip("chromium missing: install chromium to look at the page in a browser")
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def meal() -> tuple[np.ndarray, np.ndarray]:
    """A synthetic meal of six ingredients: (300, 400, 3) uint8 and its (300, 400) ids."""
    return draw_meal(14, HEIGHT, WIDTH)


@pytest.fixture(scope="session")
def image_file(meal: tuple[np.ndarray, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The meal as a PNG file."""
    path = tmp_path_factory.mktemp("images") / "lunch.png"
    cv2.imwrite(str(path), cv2.cvtColor(meal[0], cv2.COLOR_RGB2BGR))
    return path


@pytest.fixture
def server(meal: tuple[np.ndarray, np.ndarray]) -> Iterator[MealServer]:
    with meal_server(SYNTHETIC_CLASSES, [meal]) as server:
        yield server


@pytest.fixture
def show(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server; nothing may go wrong in the page, and nothing may be fetched from elsewhere."""
    contexts, wrong = [], []

    def opened(server: MealServer, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        local = (server.url, "blob:", "data:")
        page.on("request", lambda asked: None if asked.url.startswith(local) else wrong.append(asked.url))
        page.goto(server.url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []
