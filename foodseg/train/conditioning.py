"""Which names the student and the teacher are told: the student's drawn from the row's seed, the teacher's not at all.

In training the student gets lists of all the kinds that it may meet later: the whole vocabulary, an exact list, one
with names too many, one with names missing. So it works with `vocabulary`, `predicted` and `given` alike.

Shapes: B images, K classes.
"""

import numpy as np
import torch

from foodseg.config.distill import DistillConfig
from foodseg.data.rng import PositionStream, generator


def student_conditioning(
    present: torch.Tensor, known: torch.Tensor, seed: torch.Tensor, config: DistillConfig
) -> torch.Tensor:
    """Draws each image's list: (B, K) bool, the names that may be on it; background is on every list.

    By the shares `conditioning_mix`: all names; those present; those present and some others (each absent name is
    dropped with a probability that is drawn evenly for the image); the same where each present name is dropped too,
    with probability `drop`. An image of which nothing is known gets all names. Nothing but (seed, present) decides.

    Args:
        present: (B, K) bool, the names on the crop. known: (B,) bool, whether `present` says anything.
        seed: (B,) int64, the rows' seeds.
    """
    drawn = np.stack([_draw(row, int(s), config) for row, s in zip(present.cpu().numpy(), seed.tolist(), strict=True)])
    return _with_background(torch.from_numpy(drawn).to(present.device) | ~known[:, None])


def teacher_conditioning(present: torch.Tensor, known: torch.Tensor, config: DistillConfig) -> torch.Tensor | None:
    """Returns what the teacher is told: (B, K) bool, the names on each crop where they are known; None = all names."""
    if config.teacher_conditioning == "vocabulary":
        return None
    return _with_background(present | ~known[:, None])


def _draw(present: np.ndarray, seed: int, config: DistillConfig) -> np.ndarray:
    rng = generator(seed, PositionStream.CONDITIONING)
    kind = int(np.searchsorted(np.cumsum(config.conditioning_mix)[:3], rng.uniform(), side="right"))
    dropped = rng.uniform(size=len(present)) < rng.uniform()
    missed = rng.uniform(size=len(present)) < config.drop
    if kind == 0:
        return np.ones_like(present)
    if kind == 1:
        return present
    some = present | ~dropped
    return some if kind == 2 else some & ~(present & missed)


def _with_background(lists: torch.Tensor) -> torch.Tensor:
    lists[:, 0] = True
    return lists
