"""The web page at `/`: static files over the HTTP API, so that it scales with the replicas. No build step, no CDN.

found = page_file("/page/app.js")  # None: no such file
"""

from dataclasses import dataclass
from importlib import resources

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
# Only the files of the page may run or be fetched; images come from the visitor's own disk as blob: addresses.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # after an upgrade of the server no browser mixes old and new files
}


@dataclass(frozen=True)
class PageFile:
    """One file of the page. media_type: with charset."""

    body: bytes
    media_type: str


def page_file(path: str) -> PageFile | None:
    """Returns the file at `/` or `/page/<name>`, None if there is no such file. The path never leaves the folder."""
    name = "index.html" if path == "/" else path.removeprefix("/page/")
    known = {item.name: item for item in resources.files(__name__).iterdir() if item.name.endswith(tuple(MEDIA_TYPES))}
    if name not in known or path not in ("/", f"/page/{name}"):
        return None
    return PageFile(known[name].read_bytes(), MEDIA_TYPES["." + name.rpartition(".")[2]])
