"""CutMix within an image: a box of it is moved to another place, and what is there is lost (after Yun et al., 2019).

A model then sees a region without what is usually around it. The box comes from the same image, and not from another of
the batch: so the view is a function of its own row, however a batch is split over ranks.
"""

import torch

from foodseg.data.rng import RandomStream, generator

SIDES = (0.25, 0.5)  # of the box, as a share of those of the real pixels

Box = tuple[slice, slice, slice, slice]
"""Rows and columns that are taken, rows and columns that they are moved to; in cells."""


def draw_box(seed: int, height: int, width: int) -> Box:
    """Draws the box of an image of height x width cells, at least 4 of each, with or without padding."""
    rng = generator(seed, RandomStream.CUTMIX)
    tall, wide = (int(side * rng.uniform(*SIDES)) for side in (height, width))
    (top, to_top), (left, to_left) = (
        rng.integers(side - part + 1, size=2) for side, part in ((height, tall), (width, wide))
    )
    return (
        slice(top, top + tall), slice(left, left + wide), slice(to_top, to_top + tall), slice(to_left, to_left + wide),
    )  # fmt: skip


def move_box(values: torch.Tensor, box: Box, cell: int) -> torch.Tensor:
    """Returns values (..., H, W) with the box moved; a cell has `cell` x `cell` values."""
    rows, columns, to_rows, to_columns = (slice(part.start * cell, part.stop * cell) for part in box)
    moved = values.clone()
    moved[..., to_rows, to_columns] = values[..., rows, columns]
    return moved
