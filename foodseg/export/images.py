"""Images for an export: to calibrate int8 on, and to compare the graph with the network on.

calibration = split_images("prepared/meals", "train", 100)
"""

from collections.abc import Sequence

import cv2

from foodseg import storage
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import draw_meal
from foodseg.errors import UserError


def split_images(data: str, split: str, most: int) -> list[bytes]:
    """Returns at most so many encoded images of a split, from all over it; never of test.

    Raises:
        UserError: no such data set, or no image in the split.
    """
    assert split != "test", "test is for evaluate alone"
    reader = RowReader(data, read_manifest(data), [split])
    count = len(reader)
    if not count:
        raise UserError(f"{storage.redact(data)} has no images in its split {split!r}")
    rows = sorted({index * count // min(most, count) for index in range(min(most, count))})
    return [row["image"] for row in reader.take(rows, ["image"]).to_pylist()]


def given_images(uris: Sequence[str]) -> list[bytes]:
    """Returns the content of files. UserError: one is missing."""
    return [storage.read_bytes(uri) for uri in uris]


def generated_images(side: int) -> list[bytes]:
    """Returns two synthetic meals, a wide and a tall one, of `side` pixels."""
    drawn = [draw_meal(1, side * 3 // 4, side)[0], draw_meal(2, side, side * 3 // 4)[0]]
    return [cv2.imencode(".png", image[:, :, ::-1])[1].tobytes() for image in drawn]
