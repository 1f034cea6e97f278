"""Copy-paste of ingredients from one training image onto another (Ghiasi et al., Simple Copy-Paste, 2021).

A small data set shows an ingredient in few scenes, and a model learns the scene. Whole regions of some ingredients of
another image, if possible of another source, are pasted onto the crop without blending: the paper found that blending
makes no difference.
"""

from collections.abc import Collection

import numpy as np

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.config.augment import AugmentConfig
from foodseg.data.augment.geometry import Crop, ingredients_of_crop, make_crop
from foodseg.data.rng import RandomStream, generator


def paste_regions(
    crop: Crop, image: bytes, mask: bytes, height: int, width: int, seed: int, augment: AugmentConfig,
    classes: ClassTable, annotated: Collection[int] | None,
) -> Crop:  # fmt: skip
    """Returns `crop` with regions of the partner's crop pasted onto it; a pure function of its arguments.

    Args:
        image, mask, height, width: the partner's row, as `make_crop` takes it.
        seed: of the crop's position; it determines the partner's crop and the regions taken from it.
        annotated: ids that the source of `crop` annotates, None = all; only these are pasted. Any other id in the mask
            would count as annotated in the whole crop (`losses.cross_entropy.cross_entropy_sum`), and unlabelled
            instances of the ingredient as true background.
    """
    rng = generator(seed, RandomStream.COPY_PASTE)
    # centred on an ingredient: else there is often nothing to paste
    centred = augment.model_copy(update={"class_aware": 1.0})
    partner = make_crop(image, mask, height, width, int(rng.integers(2**62)), centred, classes)
    region = _chosen_region(partner.mask, crop.extent, classes, annotated, rng)
    pixels = np.where(region[..., None], partner.image, crop.image)
    ids = np.where(region, partner.mask, crop.mask)
    # the ingredients of an image without mask stay unknown: more than the pasted ones may be in it
    listed = ingredients_of_crop(ids, crop.extent, classes) if crop.ingredients_known else crop.ingredients
    return Crop(pixels, ids, crop.extent, listed, crop.ingredients_known, crop.placement)


def _chosen_region(
    mask: np.ndarray,
    extent: np.ndarray,
    classes: ClassTable,
    annotated: Collection[int] | None,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws at least one of the ingredients, each of the others with 1/2; (S, S) bool, within `extent`."""
    present = np.unique(mask)
    present = present[(present != BACKGROUND) & (present != classes.ignore_id)]
    if annotated is not None:
        present = present[np.isin(present, list(annotated))]
    if not len(present):
        return np.zeros(mask.shape, bool)
    taken = rng.uniform(size=len(present)) < 0.5
    taken[rng.integers(len(present))] = True
    region = np.isin(mask, present[taken])
    top, left, bottom, right = extent
    within = np.zeros_like(region)
    within[top:bottom, left:right] = True
    return region & within
