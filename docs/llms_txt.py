"""Writes llms.txt (what each page is about) and llms-full.txt (all pages as Markdown) next to the pages of the site.

Programs that read documentation take these instead of HTML: https://llmstxt.org. A hook of mkdocs: `make docs`.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

_pages: dict[str, Page] = {}


def on_nav(nav: Navigation, **_: object) -> Navigation:
    """Remembers the pages of the site, in their order."""
    _pages.clear()
    _pages.update({page.file.src_uri: page for page in nav.pages})
    return nav


def on_post_build(config: MkDocsConfig, **_: object) -> None:
    """Writes both files into the folder of the site."""
    site, pages = Path(config.site_dir), list(_pages.values())
    listed = [f"- [{page.title}]({page.file.src_uri}): {_first_sentence(page)}" for page in pages]
    head = f"# {config.site_name}\n\n> {config.site_description}\n"
    (site / "llms.txt").write_text("\n".join([head, "## Pages\n", *listed, ""]), encoding="utf-8")
    (site / "llms-full.txt").write_text("\n\n".join(page.markdown or "" for page in pages), encoding="utf-8")
    for page in pages:  # llms.txt names the sources, so they lie there too
        (site / page.file.src_uri).write_text(page.markdown or "", encoding="utf-8")


def _first_sentence(page: Page) -> str:
    """Returns the first sentence below the title of a page."""
    paragraphs = (page.markdown or "").split("\n\n")[1:]
    text = next(part for part in paragraphs if part and part[0] not in "#!<|`")
    return " ".join(text.split()).partition(". ")[0].rstrip(".:") + "."
