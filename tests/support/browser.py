"""A headless browser that is shown one page.

title = re.search("<title>(.*?)</title>", browse(find_browser(), tmp_path, page, "--dump-dom"))
"""

import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Returns the program, None if it is not installed."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def browse(browser: str, folder: Path, page: str, *options: str) -> str:
    """Writes the page into `folder`, opens it there with further options of Chromium; returns what that prints."""
    (folder / "shown.html").write_text(page, encoding="utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    done = subprocess.run(
        [*command, *options, (folder / "shown.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
