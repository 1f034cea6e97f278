"""An image and its mask as the audit leaves them for the shards: each source file is read once, by the audit.

    record = replace(record, image=CheckedImage(data), mask=CheckedMask(encode_stored_mask(mask)))

Images stay byte for byte, but for those that `data prepare --longest-side` makes smaller.
"""

from dataclasses import dataclass

import numpy as np
import simplejpeg

from foodseg.data.image_io import fit_longest, resize_image, resize_mask
from foodseg.data.stored_mask import decode_stored_mask

JPEG_QUALITY, JPEG_CHROMA = 95, "420"  # of images that are made smaller: cameras halve the resolution of colours, too


@dataclass(frozen=True)
class CheckedImage:
    """The bytes of an image as its shard holds them; b"" where only facts are wanted."""

    data: bytes

    def read(self) -> bytes:
        return self.data


@dataclass(frozen=True)
class CheckedMask:
    """A mask as `stored_mask`, before it is turned to fit its image; b"" where only facts are wanted."""

    data: bytes

    def read(self) -> np.ndarray:
        return decode_stored_mask(self.data)


def smaller_image(image: np.ndarray, longest_side: int) -> tuple[np.ndarray, bytes]:
    """Returns an image with the longer side at `longest_side`, and as JPEG.

    Args:
        image: (H, W, 3) uint8 RGB, larger than that.
    """
    size = fit_longest(image.shape[0], image.shape[1], longest_side)
    small = np.ascontiguousarray(resize_image(image, *size))
    return small, simplejpeg.encode_jpeg(small, JPEG_QUALITY, "RGB", JPEG_CHROMA)


def smaller_mask(mask: np.ndarray, longest_side: int) -> np.ndarray:
    """Returns (H, W) ids of the nearest pixels, with the longer side at `longest_side`."""
    return resize_mask(mask, *fit_longest(mask.shape[0], mask.shape[1], longest_side))
