"""What Segment Anything makes of an image, and of a prompt."""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class SamEmbedding:
    """What the decoder needs of an image.

    features: (1, 256, 64, 64) float32 on the model's device.
    height, width: of the image. fitted: its (height, width) inside the encoder's square.
    """

    features: torch.Tensor
    height: int
    width: int
    fitted: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in a cache."""
        return self.features.nbytes


@dataclass(frozen=True, eq=False)
class SamMask:
    """One region. mask: (H, W) bool. score: IoU with the true region as the model predicts it, about 0 to 1."""

    mask: np.ndarray
    score: float
