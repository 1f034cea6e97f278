"""Finds the mask of every image of a data set of files, and reports what does not match.

    masks = find_masks(FileIndex("meals/images"), FileIndex("meals/masks", mask_names.EXTENSIONS), lines, MaskFile)
    masks["a.jpg"]       # its mask; no entry = unlabelled

Masks that no image uses, and images without mask, are counted in the log. Masks of which none is used are an error:
such a data set would be prepared as if nothing were labelled.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from foodseg import storage
from foodseg.data.unread import UnreadMask
from foodseg.errors import DataRefused, UserError
from foodseg.prepare.formats.file_index import FileIndex
from foodseg.prepare.formats.layout import without_extension
from foodseg.prepare.formats.mask_names import Matching, match_masks
from foodseg.prepare.formats.split_lists import ListedImage
from foodseg.prepare.record import Unreadable

_log = logging.getLogger(__name__)


def find_masks(
    images: FileIndex, masks: FileIndex, lines: Sequence[ListedImage], make: Callable[[str], UnreadMask]
) -> dict[str, UnreadMask | Unreadable]:
    """Returns the mask of each listed image that has one, by `ListedImage.key`.

    Args:
        lines: of all lists that are about these images.
        make: returns the mask for the URI of its file.

    Raises:
        UserError: each image has two masks, and it is unclear which are meant.
        DataRefused: there are masks, but none belongs to an image.
    """
    listed = [line.key for line in lines]
    matching = match_masks([*listed, *images.everything()], masks.everything())
    where = storage.redact(masks.root)
    if matching.rivals:
        raise UserError(
            f"{where} holds two masks of each image, such as {' and '.join(matching.rivals)}: "
            "leave those there whose pixels are class ids"
        )
    used = [image for image in listed if image in matching.masks or image in matching.unclear]
    others = [name for name in masks.others() if "." in name]
    if listed and not (matching.masks or matching.unclear) and (masks.everything() or others):
        raise DataRefused(_none_used(where, listed, masks.everything(), others))
    _report(matching, images, listed, where)
    found: dict[str, UnreadMask | Unreadable] = {}
    for image in used:
        if image in matching.unclear:
            both = " and ".join(matching.unclear[image])
            found[image] = Unreadable(f"{both} of {where} could both be its mask: remove one", "ambiguous_name")
        else:
            found[image] = _mask(masks, matching.masks[image], make)
    return found


def _mask(masks: FileIndex, path: str, make: Callable[[str], UnreadMask]) -> UnreadMask | Unreadable:
    try:
        return make(storage.join(masks.root, path))
    except UserError as error:  # a name that the storage does not allow
        return Unreadable(str(error))


def _none_used(where: str, listed: Sequence[str], masks: Sequence[str], others: Sequence[str]) -> str:
    right = f"{without_extension(listed[0])}.png"
    if masks:
        return (
            f"none of the {len(masks)} files in {where} is the mask of an image: the first is {masks[0]}, "
            f"and the mask of {listed[0]} should be {right}"
        )
    counts = Counter(_extension(name) for name in others).most_common(3)
    kinds = ", ".join(f"{count} .{kind}" for kind, count in counts)
    return (
        f"{where} holds no masks that can be read but {kinds} files; "
        f"the mask of {listed[0]} should be {right}, one class id per pixel"
    )


def _report(matching: Matching, images: FileIndex, listed: Sequence[str], where: str) -> None:
    for rule in matching.rules:
        _log.info("%s: %s", where, rule)
    if matching.unused:
        _log.warning(
            "%s: %d masks belong to no image; the first is %s", where, len(matching.unused), matching.unused[0]
        )
    named = set(listed)
    unlisted = [path for path in images.everything() if path not in named and without_extension(path) not in named]
    if unlisted:
        _log.warning(
            "%s: no list names %d of the images, which are left out; the first is %s",
            storage.redact(images.root), len(unlisted), unlisted[0],
        )  # fmt: skip
    without = [image for image in listed if image not in matching.masks and image not in matching.unclear]
    if without and matching.masks:
        _log.warning(
            "%d of %d listed images have no mask in %s; the first is %s", len(without), len(listed), where, without[0]
        )


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower()
