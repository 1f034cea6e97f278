"""The conditioning classes of student and teacher: only the student's are random, from the row's seed.

In training the student is conditioned on all the kinds of classes that it may meet later: the whole vocabulary, exactly
the classes present, these and others, these without some. So it works with `vocabulary`, `predicted` and `provided`.
All tensors here but masks are on the CPU, as the seeds are.

Shapes: B images, K classes.
"""

import numpy as np
import torch

from foodseg.config.distill import DistillConfig
from foodseg.data.device_copy import to_device
from foodseg.data.rng import RandomStream, generator


def student_conditioning(
    present: torch.Tensor, known: torch.Tensor, seed: torch.Tensor, config: DistillConfig
) -> torch.Tensor:
    """Draws the conditioning classes of each image: (B, K) bool; background is always among them.

    By the shares `conditioning_mix`: all classes; those present; those present and some others (each absent class is
    dropped with a probability that is drawn uniformly for the image); the same, but each present class is dropped too,
    with probability `drop`. An image of which nothing is known gets all classes. The result depends on (seed, present)
    alone.

    Args:
        present: (B, K) bool, the classes on the crop. known: (B,) bool, whether `present` is known.
        seed: (B,) int64, the rows' seeds.
    """
    drawn = np.stack([_draw(row, int(s), config) for row, s in zip(present.numpy(), seed.tolist(), strict=True)])
    return _with_background(torch.from_numpy(drawn) | ~known[:, None])


def teacher_conditioning(present: torch.Tensor, known: torch.Tensor, config: DistillConfig) -> torch.Tensor | None:
    """Returns the teacher's conditioning: (B, K) bool, the classes on each crop where they are known; None = all."""
    if config.teacher_conditioning == "vocabulary":
        return None
    return _with_background(present | ~known[:, None])


def within(mask: torch.Tensor, conditioning: torch.Tensor, ignore_id: int) -> torch.Tensor:
    """Returns the mask (B, H, W) with `ignore_id` where the class is outside the conditioning (B, K), on any device."""
    allowed = to_device(conditioning, mask.device)
    ids = torch.where(mask == ignore_id, 0, mask).flatten(1)  # background is always in the conditioning
    return torch.where(allowed.gather(1, ids).view_as(mask), mask, ignore_id)


def _draw(present: np.ndarray, seed: int, config: DistillConfig) -> np.ndarray:
    rng = generator(seed, RandomStream.CONDITIONING)
    kind = int(np.searchsorted(np.cumsum(config.conditioning_mix)[:3], rng.uniform(), side="right"))
    dropped = rng.uniform(size=len(present)) < rng.uniform()
    missed = rng.uniform(size=len(present)) < config.drop
    if kind == 0:
        return np.ones_like(present)
    if kind == 1:
        return present
    some = present | ~dropped
    return some if kind == 2 else some & ~(present & missed)


def _with_background(conditioning: torch.Tensor) -> torch.Tensor:
    conditioning[:, 0] = True
    return conditioning
