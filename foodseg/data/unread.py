"""Images and masks that have not been read yet: the protocols shared by all formats and exports.

A module of its own, since both `prepare` and `annotations` import it.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


class UnreadImage(Protocol):
    """An image file, by its location."""

    def read(self) -> bytes:
        """Returns the encoded bytes; UserError where they are missing, RetryLater where the storage does not answer."""
        ...


class UnreadMask(Protocol):
    """A mask, by its location and the way to decode it to class ids."""

    def read(self) -> np.ndarray:
        """Returns (H, W) uint8 or uint16 ids of the listing's label space; UserError where it is not such a mask."""
        ...


@runtime_checkable
class LayeredMask(Protocol):
    """A mask that is painted from annotations, some of which others may cover."""

    def read_with_hidden(self, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Returns what `UnreadMask.read` does, and a sentence about each annotation that leaves no pixel.

        Args:
            names: of the class ids.
        """
        ...
