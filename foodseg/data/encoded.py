"""Images and masks that have not been read yet: what every format and every export agrees on.

Lower than `prepare` and `annotations`, which both stand on it: that is why so little has a file of its own.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np


class Encoded(Protocol):
    """Where an encoded file lies."""

    def read(self) -> bytes:
        """Returns the bytes; UserError where they are missing, RetryLater where the storage does not answer."""
        ...


class Mask(Protocol):
    """Where a mask lies, and how it becomes class ids."""

    def read(self) -> np.ndarray:
        """Returns (H, W) uint8 or uint16 ids of the listing's label space; UserError where it is no such mask."""
        ...


@runtime_checkable
class LayeredMask(Protocol):
    """A mask that is painted from annotations, of which others may cover some."""

    def read_with_hidden(self, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
        """Returns what `Mask.read` does, and a sentence on each annotation that leaves no pixel.

        Args:
            names: of the class ids.
        """
        ...
