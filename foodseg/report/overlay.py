"""Image + mask -> image with a legend; shares of the food; contact sheets.

Plain arrays in and out, so that `predict`, `evaluate` and the web page show the same.

    shown = overlay(image, mask, classes)

Shape letters: H, W of the image; H', W' with the legend at the right or below.
"""

import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.errors import UserError
from foodseg.report.fonts import draw_text, is_legible, shortened, text_width

BAND_PIXELS = 1 << 19
LEGEND_BACKGROUND = (250, 250, 248)
LEGEND_TEXT = (34, 34, 38)
HATCH_DARK, HATCH_LIGHT = 96, 150
LONGEST_NAME = 36
NOTHING_FOUND = "no ingredient found"
_log = logging.getLogger(__name__)


def overlay(image: np.ndarray, mask: np.ndarray, classes: ClassTable, *, opacity: float = 0.55) -> np.ndarray:
    """Tints the ingredients of an image and adds a legend of them, largest first.

    Background keeps its pixels, ignored pixels are hatched in grey. The legend is below wide images and at the
    right of others. Works in bands of rows: it needs a few megabytes in addition to the result.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) integers, ids of `classes` or `classes.ignore_id`.
        opacity: of the tint, 0 (only outlines are seen) to 1.

    Returns:
        (H', W', 3) uint8 RGB, H' >= H and W' >= W; the image is its upper left corner.

    Raises:
        UserError: sizes or dtypes do not fit, an id is not in the table, or opacity is out of range.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UserError(f"overlay needs an (H, W, 3) uint8 image, found {image.shape} {image.dtype}")
    if mask.shape != image.shape[:2]:
        raise UserError(f"the mask must have the image's size {image.shape[:2]}, found {mask.shape}")
    if not 0 <= opacity <= 1:
        raise UserError(f"opacity must be in 0..1, found {opacity}")
    height, width = mask.shape
    below = width > 1.3 * height
    legend = _legend(food_shares(mask, classes), classes, height, width, below)
    tall, wide = legend.shape[:2]
    size = (height + tall, max(width, wide)) if below else (max(height, tall), width + wide)
    shown = np.full((*size, 3), LEGEND_BACKGROUND, np.uint8)
    left, top = (0, height) if below else (width, 0)
    shown[top : top + tall, left : left + wide] = legend
    palette = classes.palette()
    for rows in _bands(height, width):
        shown[rows, :width] = _tinted(image, mask, rows, palette, classes.ignore_id, opacity)
    return shown


def food_shares(mask: np.ndarray, classes: ClassTable) -> list[tuple[int, int, float]]:
    """Counts the ingredients of a mask.

    Args:
        mask: (H, W) integers, ids of `classes` or `classes.ignore_id`.

    Returns:
        (id, pixels, share of all food pixels in 0..1) of every ingredient present, largest first, equal ones by id.
        Background and ignored pixels are not food.

    Raises:
        UserError: the mask is not an (H, W) array of integers, or holds an id that is not in the table.
    """
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise UserError(f"a mask must be an (H, W) array of integers, found {mask.shape} {mask.dtype}")
    counts = np.zeros(len(classes), np.int64)
    for rows in _bands(*mask.shape):
        ids = mask[rows].ravel()
        ids = ids[ids != classes.ignore_id]
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < len(classes):
            wrong = int(ids.min()) if int(ids.min()) < 0 else int(ids.max())
            raise UserError(f"the mask holds id {wrong}, but the class table ends at {len(classes) - 1}")
        counts += np.bincount(ids.astype(np.intp), minlength=len(classes))
    counts[BACKGROUND] = 0
    food = int(counts.sum())
    present = sorted(np.flatnonzero(counts).tolist(), key=lambda index: (-counts[index], index))
    return [(index, int(counts[index]), int(counts[index]) / food) for index in present]


def contact_sheet(images: Sequence[np.ndarray], columns: int = 4, cell: int = 320) -> np.ndarray:
    """Returns the images ((H, W, 3) uint8 RGB each) as a grid of square cells, row by row: (R*cell, C*cell, 3) uint8.

    An image fills its cell in one direction, keeps its aspect and is in the middle; there are at most `columns`
    columns, fewer for fewer images.

    Raises:
        UserError: there is no image, one is not (H, W, 3) uint8, or `columns` or `cell` is below 1.
    """
    if not images or columns < 1 or cell < 1:
        raise UserError(
            f"a contact sheet needs images, columns and cells, found {len(images)} images, {columns} columns "
            f"and cells of {cell} pixels"
        )
    columns = min(columns, len(images))
    sheet = np.full((-(-len(images) // columns) * cell, columns * cell, 3), LEGEND_BACKGROUND, np.uint8)
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UserError(f"image {index} must be (H, W, 3) uint8, found {image.shape} {image.dtype}")
        height, width = image.shape[:2]
        scale = cell / max(height, width)
        tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
        fitted = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.LANCZOS))
        top = index // columns * cell + (cell - tall) // 2
        left = index % columns * cell + (cell - wide) // 2
        sheet[top : top + tall, left : left + wide] = fitted
    return sheet


def _bands(height: int, width: int) -> Iterator[slice]:
    """Yields slices of rows with about `BAND_PIXELS` pixels each, so that temporary arrays stay small."""
    step = max(1, BAND_PIXELS // max(1, width))
    for top in range(0, height, step):
        yield slice(top, min(height, top + step))


def _tinted(
    image: np.ndarray, mask: np.ndarray, rows: slice, palette: np.ndarray, ignore_id: int, opacity: float
) -> np.ndarray:
    """Returns the rows (h, W, 3) uint8 with tint, hatching and outlines; background is copied."""
    height, width = mask.shape
    ids, band = mask[rows], image[rows].copy()
    food = (ids != BACKGROUND) & (ids != ignore_id)
    colours = palette[ids[food]]
    band[food] = np.rint(band[food] * np.float32(1 - opacity) + colours * np.float32(opacity)).astype(np.uint8)
    thick = max(1, max(height, width) // 600)
    border = food & _at_border(mask, rows, thick)
    # A darker shade of the region's own colour separates it from its neighbours, whatever colour those have.
    band[border] = (palette[ids[border]] * np.float32(0.6)).astype(np.uint8)
    ignored = ids == ignore_id
    if ignored.any():
        ys, xs = np.ogrid[rows.start : rows.stop, :width]
        stripe = 4 * thick
        hatch = np.where((ys + xs) // stripe % 2 == 0, HATCH_DARK, HATCH_LIGHT).astype(np.uint8)
        band[ignored] = (band[ignored] >> 1) + (hatch[ignored] >> 1)[:, None]
    return band


def _at_border(mask: np.ndarray, rows: slice, thick: int) -> np.ndarray:
    """Returns (h, W) bool: another id is within `thick` pixels straight above, below, left or right."""
    ids = mask[rows]
    border = np.zeros(ids.shape, bool)
    for step in range(1, thick + 1):
        differs = ids[:, step:] != ids[:, :-step]
        border[:, step:] |= differs
        border[:, :-step] |= differs
        for shift in (-step, step):
            start, stop = max(rows.start, -shift), min(rows.stop, mask.shape[0] - shift)
            if start < stop:
                inner = slice(start - rows.start, stop - rows.start)
                border[inner] |= ids[inner] != mask[start + shift : stop + shift]
    return border


def _legend(
    shares: list[tuple[int, int, float]], classes: ClassTable, height: int, width: int, below: bool
) -> np.ndarray:
    """Returns the legend (h, w, 3) uint8: about as wide as the image if it goes `below`, else about as tall."""
    size = max(12, max(height, width) // 36)
    pad, line = size // 2, size + size // 2
    entries = [(index, legend_name(index, classes.names[index]), _shown(share)) for index, _, share in shares]
    swatch = size + pad if entries else 0
    entries = entries or [(BACKGROUND, NOTHING_FOUND, "")]
    column = max(int(text_width(name, size) + text_width(share, size)) for _, name, share in entries) + swatch + 2 * pad
    if below:
        columns = min(len(entries), max(1, (width - pad) // column))
    else:
        # At least four rows, so that the legend of a tiny image does not become one long line.
        columns = -(-len(entries) // max(4, (height - 2 * pad) // line))
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (columns * column + pad, rows * line + 2 * pad), LEGEND_BACKGROUND)
    draw = ImageDraw.Draw(legend)
    palette = classes.palette()
    for position, (index, name, share) in enumerate(entries):
        # Read along the rows below an image, down the columns at its right.
        across, down = (position % columns, position // columns) if below else (position // rows, position % rows)
        left, top = pad + across * column, pad + down * line
        if swatch:
            draw.rectangle((left, top + 1, left + size - 1, top + size), fill=tuple(palette[index].tolist()))
        middle = top + 1 + size / 2
        draw_text(draw, (left + swatch, middle), name, size, LEGEND_TEXT)
        # drawn separately: in one text with an Arabic name, the share would be at its left
        draw_text(draw, (left + swatch + text_width(name, size), middle), share, size, LEGEND_TEXT)
    return np.asarray(legend)


@lru_cache(maxsize=4096)
def legend_name(index: int, name: str) -> str:
    """Returns the label of a class in drawings: its name, cut where it is long, or its id where no font has the name.

    The first time that a name cannot be drawn, a warning is logged.
    """
    if is_legible(name):
        return shortened(name, LONGEST_NAME)
    _log.warning("no font here has all letters of %r: in drawings the class is called id %d", name, index)
    return f"id {index}"


def _shown(share: float) -> str:
    return "  " + (f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %")
