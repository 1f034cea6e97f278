"""Images that show a prepared data set: labelled meals of every split, and near-duplicates that splits share.

The choice is deterministic: the same data set always gives the same sheets. Images are read one at a time.
"""

import io
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw

from foodseg import storage
from foodseg.classes import ClassTable
from foodseg.data.image_io import BadFile, decode_image, decode_mask, fit_longest, resize_image, resize_mask
from foodseg.data.reader import RowReader
from foodseg.report.fonts import draw_text
from foodseg.report.overlay import LEGEND_BACKGROUND, LEGEND_TEXT, contact_sheet, overlay

MEALS, COLUMNS, SIDE = 30, 6, 400  # images on the contact sheet, how many in a row, pixels of a cell
MEALS_SHEET, PAIRS_SHEET = "contact_sheet.png", "near_duplicates.png"
PAIRS, PAIR_COLUMNS, PAIR_SIDE = 60, 3, 280
_log = logging.getLogger(__name__)
_LINE = 22  # pixels of a caption


def draw_meals_contact_sheet(reader: RowReader, splits: Sequence[str], classes: ClassTable, out: str) -> str:
    """Writes `out`/contact_sheet.png, images with their masks and legends; returns where it is.

    Args:
        splits: split of each row of the reader.
    """
    present = np.zeros((len(reader), len(classes)), bool)
    for row, ids in enumerate(reader.column("ingredients").to_pylist()):
        present[row, ids] = True
    cells = []
    for number in choose_rows(present, splits, MEALS):
        row = reader.take([number], ["image_id", "image", "mask", "height", "width"]).to_pylist()[0]
        image = _small(row, SIDE)
        if row["mask"] is None:
            shown, note = image, ", no mask"
        else:
            shown, note = overlay(image, resize_mask(decode_mask(row["mask"]), *image.shape[:2]), classes), ""
        cells.append(_captioned(contact_sheet([shown], 1, SIDE), f"{splits[number]}: {row['image_id']}{note}"))
    return _write(_grid(cells, COLUMNS), out, MEALS_SHEET)


def draw_pairs_contact_sheet(
    reader: RowReader, groups: Sequence[str], pairs: Sequence[dict[str, Any]], out: str
) -> str:
    """Writes `out`/near_duplicates.png, two images side by side; returns where it is.

    Args:
        groups: group of each row of the reader.
        pairs: findings `near_duplicate`, closest first. Each image is shown with its closest near-duplicate, PAIRS
            in all, alternating between groups.
    """
    row_of = {image_id: row for row, image_id in enumerate(reader.column("image_id").to_pylist())}
    closest: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        closest.setdefault(pair["image_id"], pair)
    before: Counter[str] = Counter()  # pairs of each group so far
    turns: list[tuple[int, int, dict[str, Any]]] = []
    for image_id, pair in closest.items():
        turns.append((before[groups[row_of[image_id]]], len(turns), pair))
        before[groups[row_of[image_id]]] += 1
    cells = []
    for _, _, pair in sorted(turns, key=lambda turn: turn[:2])[:PAIRS]:
        sides = []
        for image_id, split in ((pair["image_id"], pair["split"]), (pair["other_id"], pair["other_split"])):
            row = reader.take([row_of[image_id]], ["image_id", "image", "height", "width"]).to_pylist()[0]
            square = contact_sheet([_small(row, PAIR_SIDE)], 1, PAIR_SIDE)
            sides.append(_captioned(square, f"{split}: {image_id}"))
        whole = _captioned(np.concatenate(sides, 1), f"correlation {pair['correlation']:.3f}")
        cells.append(cv2.copyMakeBorder(whole, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=LEGEND_TEXT))
    return _write(_grid(cells, PAIR_COLUMNS), out, PAIRS_SHEET)


def choose_rows(present: np.ndarray, splits: Sequence[str], most: int) -> list[int]:
    """Chooses rows that show every split and many classes.

    The splits take turns. Each takes the row with the greatest sum of 1 / images over the classes that were not shown
    yet, so that rare classes come first; the first of equal rows. When all classes have been shown it starts again.

    Args:
        present: (N, K) bool, which ids each image shows.
        splits: split of each row.

    Returns:
        At most `most` different row numbers, in the order of their choice.
    """
    worth = 1 / np.maximum(1, present.sum(0))
    left = {split: [row for row, own in enumerate(splits) if own == split] for split in dict.fromkeys(splits)}
    seen = np.zeros(present.shape[1], bool)
    chosen: list[int] = []
    while len(chosen) < min(most, len(splits)):
        for rows in left.values():
            if not rows or len(chosen) == most:
                continue
            gains = present[rows] @ np.where(seen, 0, worth)
            best = rows.pop(int(gains.argmax()))
            chosen.append(best)
            seen |= present[best]
            if seen[present.any(0)].all():
                seen[:] = False
    return chosen


def _small(row: dict[str, Any], longest: int) -> np.ndarray:
    """Decodes a row's image to (H, W, 3) uint8 RGB with the longer side at `longest` pixels; grey if damaged."""
    height, width = fit_longest(row["height"], row["width"], longest)
    try:
        return resize_image(decode_image(row["image"], (height, width)), height, width)
    except BadFile as error:  # a damaged image does not end the inspection
        _log.warning("%s: %s", row["image_id"], error)
        return np.full((height, width, 3), 128, np.uint8)


def _captioned(image: np.ndarray, text: str) -> np.ndarray:
    """Returns the image with a line of text above it, cut where the image ends."""
    line = Image.new("RGB", (image.shape[1], _LINE), LEGEND_BACKGROUND)
    draw_text(ImageDraw.Draw(line), (4, _LINE / 2), text, 14, LEGEND_TEXT)
    return np.concatenate([np.asarray(line), image])


def _grid(cells: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Lays cells of one size out row by row."""
    columns = min(columns, len(cells))
    height, width = cells[0].shape[:2]
    sheet = np.full((-(-len(cells) // columns) * height, columns * width, 3), LEGEND_BACKGROUND, np.uint8)
    for index, cell in enumerate(cells):
        top, left = index // columns * height, index % columns * width
        sheet[top : top + height, left : left + width] = cell
    return sheet


def _write(image: np.ndarray, out: str, name: str) -> str:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "PNG")
    where = storage.join(out, name)
    storage.write_bytes(where, sink.getvalue())
    return storage.redact(where)
