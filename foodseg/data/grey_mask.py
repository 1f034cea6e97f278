"""Masks of ids that were saved with several channels: grey as RGB, as image libraries often write it, or colours."""

import numpy as np

from foodseg.data.image_format import BadFile


def one_channel(channels: np.ndarray) -> np.ndarray:
    """Returns the ids of a grey mask that was saved as (H, W, 2 to 4) uint8 or uint16, opacity last.

    Raises:
        BadFile: it has colours, or parts that are transparent.
    """
    depth = channels.shape[2]
    ids = channels[..., 0]
    if depth in (3, 4) and not (np.array_equal(ids, channels[..., 1]) and np.array_equal(ids, channels[..., 2])):
        raise BadFile(_colour_sentence(channels[..., :3]), "mask_mode")
    if depth in (2, 4) and not (channels[..., -1] == np.iinfo(channels.dtype).max).all():
        raise BadFile(
            "a mask has an id at every pixel, but this one is partly transparent: save it as grey PNG without "
            "transparency, 0 where there is background",
            "mask_mode",
        )
    return np.ascontiguousarray(ids)


def whole_ids(numbers: np.ndarray) -> np.ndarray:
    """Returns (H, W) numbers of any type as uint8 or uint16 ids.

    Raises:
        BadFile: some are negative, above 65535 or have fractions.
    """
    if numbers.dtype in (np.uint8, np.uint16):
        return numbers
    if numbers.dtype == np.bool_:
        return numbers.astype(np.uint8)
    if not (numbers == np.floor(numbers)).all():
        raise BadFile("a mask holds whole ids, this one has fractions: save the ids as 8 bit grey PNG", "mask_mode")
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) > 65535:
        raise BadFile("a mask holds ids from 0 to 65535, this one holds others", "unknown_id")
    return numbers.astype(np.uint16)


def _colour_sentence(colours: np.ndarray) -> str:
    """Returns the message for a colour mask, (H, W, 3) RGB: what it is and how to convert it to ids."""
    if not colours[..., 1].any() and not colours[..., 2].any():
        return (
            "a mask holds one class id per pixel, this one is in colours, all of them shades of red: if the ids are "
            "in the red channel, save it alone as grey PNG (a data set of UEC-FoodPix is read with --format uecfoodpix)"
        )
    first = next(colour for colour in np.unique(colours.reshape(-1, 3)[:: 1 + colours.size // 300_000], axis=0)[::-1])
    shown = ", ".join(map(str, first.tolist()))
    return (
        f"a mask holds one class id per pixel, this one is in colours, such as RGB {shown}: replace every colour by "
        "the id that it means, and save the ids as grey or palette PNG"
    )
