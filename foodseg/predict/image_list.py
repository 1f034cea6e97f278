"""Which images a command line names: single files, and all images of a folder."""

import logging
from collections.abc import Sequence
from pathlib import Path

from foodseg import storage
from foodseg.errors import UserError
from foodseg.storage.outputs import RECORD, folded, written_names

READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff")
# images that are not read: to be refused by name, not passed over
_OTHER = (".heic", ".heif", ".avif", ".gif", ".jp2", ".jxl", ".psd", ".ico", ".dng", ".cr2", ".cr3", ".nef", ".arw")
_SHOWN = 3
_log = logging.getLogger(__name__)


def list_images(arguments: Sequence[str]) -> list[str]:
    """Returns the images that files, folders and URIs of both name: those of a folder by name, without subfolders.

    An image that is named twice is returned once. Hidden files and what `foodseg` wrote itself are left out; one log
    line counts the other files that are passed over.

    Raises:
        UserError: a folder without an image. RetryLater: the storage does not answer.
    """
    images: dict[str, str] = {}
    for argument in arguments:
        names = _names_in(argument)
        for image in [argument] if names is None else _chosen(argument, names):
            images.setdefault(storage.absolute(image), image)
    return list(images.values())


def file_name(uri: str) -> str:
    """Returns the name of a file without its folder."""
    path = uri if storage.is_local(uri) else uri.partition("?")[0]
    return path.rstrip("/").rsplit("/", 1)[-1]


def stem_of(uri: str) -> str:
    """Returns the name of a file without its folder and its last ending."""
    name = file_name(uri)
    return name.rsplit(".", 1)[0] or name


def require_different_stems(images: Sequence[str]) -> None:
    """Refuses two images whose results would have one name; upper and lower case count as equal.

    Raises:
        UserError: names both.
    """
    seen: dict[str, str] = {}
    for image in images:
        stem = folded(stem_of(image))
        if stem in seen:
            both = f"{storage.redact(seen[stem])} and {storage.redact(image)}"
            raise UserError(
                f"two images are called {stem_of(image)!r} ({both}), and the results of one would overwrite those of "
                "the other: rename one, or label them into different folders"
            )
        seen[stem] = image


def _names_in(argument: str) -> list[str] | None:
    """Returns the names in a folder; None for a file."""
    if storage.is_local(argument):
        return storage.list_names(argument) if Path(storage.absolute(argument)).is_dir() else None
    path = argument.partition("?")[0]
    if not path.endswith("/") and path.lower().endswith((*READ, *_OTHER)):
        return None
    return storage.list_names(argument) or None  # S3 has no folders, only names that begin alike


def _chosen(folder: str, names: Sequence[str]) -> list[str]:
    own = written_names(folder) if RECORD in names else set()
    visible = [name for name in names if not name.startswith(".") and name not in own]
    chosen = [name for name in visible if name.lower().endswith((*READ, *_OTHER))]
    shown = storage.redact(folder)
    if not chosen:
        raise UserError(f"{shown} holds no image ({', '.join(READ)}); images in subfolders are named one by one")
    others = [name for name in visible if name not in chosen]
    if others:
        first = ", ".join(others[:_SHOWN])
        _log.warning("%s: %d files and folders are passed over (%s, ...)", shown, len(others), first)
    return [storage.join(folder, name) for name in chosen]
