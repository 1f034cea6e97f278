"""The documentation site: built without a warning, complete, readable without a network, wide and narrow."""

import functools
import http.server
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

ROOT = Path(__file__).resolve().parents[2]
# what a browser loads by itself; a link that a reader may click on is none
LOADS = re.compile(
    r"""(?:<(?:script|img|iframe|source)\b[^>]*\bsrc|<link\b(?![^>]*canonical)[^>]*\bhref)=["']?(https?:)?//"""
)
LOADS_OF_CSS = re.compile(r"""(?:url\(|@import)\s*["']?(https?:)?//""")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, into a folder of its own."""
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def pages() -> list[str]:
    return sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


def test_every_page_is_there_and_programs_find_them(site: Path) -> None:
    listed = (site / "llms.txt").read_text(encoding="utf-8")
    whole = (site / "llms-full.txt").read_text(encoding="utf-8")
    for name in pages():
        assert (site / f"{name}.html").is_file()
        assert f"]({name}.md): " in listed and (site / f"{name}.md").is_file()
    assert "foodseg data prepare my/meals prepared/meals" in whole


def test_nothing_is_named_that_a_browser_would_load_from_elsewhere(site: Path) -> None:
    found = [path.name for path in site.rglob("*.html") if LOADS.search(path.read_text(encoding="utf-8"))]
    found += [path.name for path in site.rglob("*.css") if LOADS_OF_CSS.search(path.read_text(encoding="utf-8"))]
    assert found == []
    assert LOADS.search('<link rel="stylesheet" href="https://fonts.example/css">') and LOADS.search("<img src=//x/y>")


def test_pages_load_from_here_alone_and_fit_a_telephone(browser: Browser, address: str) -> None:
    asked: list[str] = []
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.on("request", lambda request: asked.append(request.url))
    for name in pages():
        page.goto(f"{address}{name}.html", wait_until="load")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, f"{name} is wider than the screen"
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), name
    page.close()
    assert len(asked) > len(pages()) and [url for url in asked if not url.startswith((address, "data:"))] == []


def test_search_finds_a_page_on_the_disk(browser: Browser, site: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto((site / "index.html").as_uri())
    box = page.get_by_role("textbox", name="Search")
    box.click()  # loads the index
    expect(page.locator(".md-search-result__meta")).to_have_text("Type to start searching")
    box.press_sequentially("quarantine")
    expect(page.locator(".md-search-result__item").first).to_contain_text("Glossary")
    page.close()
