"""Perturbed views of regions: how much does a classifier rely on where things are? (RveRNet, Jin, 2024.)

    views = [perturbed(each, "permute", seed) for each in views]

permute cuts each view into patches of 16 pixels and shuffles them, each view by itself, here with its grey border;
translocate moves it by 60 pixels to the right and 85 up, and what comes in is grey. Published at views of 224 pixels.
"""

from typing import Literal, get_args

import numpy as np

from foodseg.data.roi_views import PAD_VALUE
from foodseg.errors import UserError

Perturbation = Literal["permute", "translocate"]
PATCH = 16
RIGHT, UP = 60, 85


def parse_perturbation(value: str | None) -> Perturbation | None:
    """Returns what `--perturb` says. UserError: something else."""
    known: dict[str, Perturbation] = {name: name for name in get_args(Perturbation)}
    if value is None:
        return None
    if value not in known:
        raise UserError(f"--perturb {value!r}: use {' or '.join(known)}")
    return known[value]


def perturbed(views: np.ndarray, how: Perturbation, seed: int) -> np.ndarray:
    """Perturbs the views (V, S, S, 3) uint8 of one region.

    Args:
        seed: of the shuffle; the same one gives the same order. Patches that would stick out are padded with black.
    """
    if how == "translocate":
        return np.stack([_moved(view) for view in views])
    rng = np.random.default_rng(seed)
    return np.stack([_shuffled(view, rng) for view in views])


def _moved(view: np.ndarray) -> np.ndarray:
    moved = np.full_like(view, PAD_VALUE)
    side = len(view)
    if side > max(RIGHT, UP):
        moved[: side - UP, RIGHT:] = view[UP:, : side - RIGHT]
    return moved


def _shuffled(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = len(view)
    missing = -side % PATCH
    whole = np.pad(view, ((0, missing), (0, missing), (0, 0)))
    count = len(whole) // PATCH
    patches = whole.reshape(count, PATCH, count, PATCH, 3).swapaxes(1, 2).reshape(-1, PATCH, PATCH, 3)
    shuffled = patches[rng.permutation(len(patches))].reshape(count, count, PATCH, PATCH, 3).swapaxes(1, 2)
    return shuffled.reshape(whole.shape)[:side, :side]
