"""Bytes and CPU time of the masks of a folder as format 2 of a prepared data set holds them, and as format 3 does.

print(compare_formats(Path("../shared/datasets/foodmix/masks")))
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from foodseg.data.image_io import decode_mask, encode_mask
from foodseg.data.stored_mask import encode_stored_mask

_TIMES = 5  # of which the fastest counts: other work may run
Item = TypeVar("Item")
Result = TypeVar("Result")


def compare_formats(folder: Path) -> dict[str, Any]:
    """Returns mean bytes of a mask, and mean microseconds of CPU to encode and to decode it, of both formats."""
    masks = [decode_mask(path.read_bytes()) for path in sorted(folder.glob("*.png"))]
    figures: dict[str, Any] = {"masks": len(masks), "mean_pixels": round(float(np.mean([mask.size for mask in masks])))}
    for name, encode in (("PNG", encode_mask), ("zstd", encode_stored_mask)):
        encoded, encoding = _timed(encode, masks)
        decoded, decoding = _timed(decode_mask, encoded)
        assert all(np.array_equal(mask, found) for mask, found in zip(masks, decoded, strict=True)), name
        figures[name] = {
            "bytes": round(sum(map(len, encoded)) / len(masks)), "encode_us": encoding, "decode_us": decoding,
        }  # fmt: skip
    return figures


def _timed(function: Callable[[Item], Result], items: Sequence[Item]) -> tuple[list[Result], int]:
    """Returns the results, and the mean microseconds of CPU that each took in the fastest of _TIMES rounds."""
    fastest = float("inf")
    for _ in range(_TIMES):
        began = time.process_time()
        results = [function(item) for item in items]
        fastest = min(fastest, time.process_time() - began)
    return results, round(fastest / len(items) * 1e6)
