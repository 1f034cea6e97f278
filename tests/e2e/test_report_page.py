"""The report in a real browser: as wide as a telephone, and printed."""

import re
from html import escape

import pytest

from foodseg.eval.report_html import page_html
from tests.support.browser import browse, find_browser
from tests.support.report_page import awkward_page

WIDTHS = (390, 768, 1280)
# A window has a least width, a frame has none. Writes down how wide the page became in each.
MEASURE = """<title>-</title>{frames}<script>onload = () => {{
  document.title = [...document.querySelectorAll("iframe")].map(frame => {{
    const root = frame.contentDocument.documentElement, images = [...frame.contentDocument.images];
    return [frame.contentWindow.innerWidth, root.scrollWidth, images.filter(image => image.naturalWidth).length];
  }}).join(" ");
}}</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    found = find_browser()
    if found is None:
        pytest.skip("chromium missing: install chromium to look at the report in a browser")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return page_html(awkward_page(tmp_path_factory.mktemp("page") / "data"))


def test_nothing_is_wider_than_the_screen(chromium, page, tmp_path):
    frame = '<iframe width="{}" height="844" style="border: 0" srcdoc="{}"></iframe>'
    frames = "".join(frame.format(width, escape(page)) for width in WIDTHS)
    shown = browse(chromium, tmp_path, MEASURE.format(frames=frames), "--hide-scrollbars", "--dump-dom")
    title = re.search(r"<title>([^<]*)</title>", shown)
    assert title is not None and title[1] == " ".join(f"{width},{width},24" for width in WIDTHS)


def test_it_prints_on_a_few_pages(chromium, page, tmp_path):
    browse(chromium, tmp_path, page, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}")
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "report.pdf").read_bytes())
    assert 3 <= len(pages) <= 8
