"""What the browser tests of the page do and look at. x, y are pixels of the image that was sent."""

from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page

HEIGHT, WIDTH = 300, 400  # of the synthetic meal


def upload(page: Page, image: Path) -> None:
    """Chooses an image and waits for its ingredients."""
    page.set_input_files("#choose", image)
    page.wait_for_selector("#legend li")


def seen(page: Page) -> np.ndarray:
    """Returns the stage as it is on the screen: (H, W, 3) int RGB, of the image's own size."""
    shot = cv2.imdecode(np.frombuffer(page.locator("#stage").screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert shot is not None
    return cv2.resize(shot, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)[..., ::-1].astype(int)


def at(page: Page, x: int, y: int) -> tuple[float, float]:
    """Returns where on the screen a pixel of the image is."""
    box = page.locator("#stage").bounding_box()
    assert box is not None
    return box["x"] + (x + 0.5) * box["width"] / WIDTH, box["y"] + (y + 0.5) * box["height"] / HEIGHT


def saved(page: Page, button: str) -> tuple[str, bytes]:
    """Clicks on a download; returns the name and the content of the file."""
    with page.expect_download() as waiting:
        page.click(button)
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def middle_of(mask: np.ndarray) -> tuple[int, int]:
    """Returns x, y of the pixel of a bool mask that is farthest from its border."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), mask.shape)
    return int(x), int(y)


def largest(mask: np.ndarray) -> int:
    """Returns the ingredient with the most pixels."""
    return int(np.bincount(mask[mask > 0]).argmax())
