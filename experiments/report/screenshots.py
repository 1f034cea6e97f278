"""Screenshots of a page in a browser, at any width, also narrower than a window can be."""

import re
import tempfile
from html import escape
from pathlib import Path

from PIL import Image

from experiments.item_queue import ItemError
from tests.support.browser import NAMES, browse, find_browser

MOST_ROWS = 16_000  # pixels: what a browser draws into one image
# A window has a least width, a frame does not.
FRAME = '<body style="margin: 0"><iframe width="{}" height="{}" style="border: 0; display: block" srcdoc="{}"></iframe>'
MEASURE = """<title>-</title>{}<script>onload = () => {{
  document.title = document.querySelector("iframe").contentDocument.documentElement.scrollHeight;
}}</script>"""


def screenshot(page: Path, width: int, image: Path) -> None:
    """Draws the whole page, `width` pixels wide, as PNG; raises ItemError without a browser."""
    browser = find_browser()
    if browser is None:
        raise ItemError(f"no browser: install one of {', '.join(NAMES)}")
    html = escape(page.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        # a scroll bar would make the page narrower, and higher
        frame, bare = FRAME.format(width, 844, html), "--hide-scrollbars"
        measured = browse(browser, Path(folder), MEASURE.format(frame), bare, "--dump-dom")
        title = re.search(r"<title>(\d+)</title>", measured)
        if title is None:
            raise ItemError(f"the browser did not report how high {page.name} is at {width} pixels")
        height = min(int(title[1]), MOST_ROWS)
        options = (bare, f"--window-size={max(width, 800)},{height}", f"--screenshot={image}")
        browse(browser, Path(folder), FRAME.format(width, height, html), *options)
    with Image.open(image) as image_of_page:
        whole = image_of_page.crop((0, 0, width, height))
    whole.save(image)
