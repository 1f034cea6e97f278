"""Shared by the published layouts: case-insensitive file names, and splits in names."""

import logging
import re
from collections.abc import Sequence

from foodseg import storage
from foodseg.errors import UserError

SPLITS = ("train", "val", "test")
EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".webp", ".bmp", ".tif", ".tiff")

_SPLIT_OF = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLIT_OF)})(?![a-z])")

_log = logging.getLogger(__name__)


# files that desktops and file sharing leave in folders; in lower case
_LEFTOVERS = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


def visible(names: Sequence[str]) -> list[str]:
    """Returns the names without hidden files (leading dot, as `._a.jpg` of macOS) and files of desktops."""
    return [name for name in names if not name.startswith(".") and name.lower() not in _LEFTOVERS]


def visible_names(folder: str) -> list[str]:
    """Returns the sorted names in a folder that a data set may consist of, as `storage.list_names`."""
    return visible(storage.list_names(folder))


def locate(folder: str, path: str) -> str:
    """Returns the URI of `path` (parts with `/`) below `folder`, with the case of the existing files."""
    return _find(folder, path) or storage.join(folder, path)


def missing(folder: str, paths: Sequence[str]) -> list[str]:
    """Returns the `paths` that do not exist below `folder`, ignoring case."""
    return [path for path in paths if _find(folder, path) is None]


def refuse_missing(src: str, absent: Sequence[str], layout: str, needs: str) -> None:
    """Raises UserError if anything is `absent`: `src` is not `layout`, and what that layout needs."""
    if absent:
        raise UserError(f"{storage.redact(src)} is not {layout}: {', '.join(absent)} missing; expected {needs}")


def _find(folder: str, path: str) -> str | None:
    for part in path.split("/"):
        names = [name for name in visible_names(folder) if name.lower() == part.lower()]
        if not names:
            return None
        folder = storage.join(folder, part if part in names else names[0])
    return folder


def without_extension(name: str) -> str:
    """Returns the name without an image extension; other dots are kept."""
    return name.rsplit(".", 1)[0] if name.lower().endswith(EXTENSIONS) else name


def split_in_name(path: str) -> str | None:
    """Returns the split in a path: in the file name, else in the folders; None = no split, or several."""
    splits = _splits_in(path)
    return splits[0] if len(splits) == 1 else None


def _splits_in(path: str) -> list[str]:
    for part in reversed(path.lower().split("/")):
        if found := sorted({_SPLIT_OF[word] for word in _SPLIT_WORD.findall(part)}):
            return found
    return []


def names_split(name: str) -> bool:
    """True for a name that contains the word of a split."""
    return _SPLIT_WORD.search(name.lower()) is not None


def splits_by_name(names: Sequence[str], where: str) -> dict[str, str]:
    """Returns the split that each file is named after: "instances_val2017.json" is val.

    Where the name has no split, its folders decide. A single file without a split is all train. `where` names the data
    set in errors.

    Raises:
        UserError: a file that does not name a split, or names several.
    """
    found = {name: _splits_in(name) for name in names}
    if len(names) == 1 and not found[names[0]]:
        _log.info("%s: %s names no split, so that all of it is train", where, names[0])
        return {names[0]: "train"}
    for name, splits in found.items():
        if len(splits) != 1:
            raise UserError(
                f"{where}: {name} names {' and '.join(splits) or 'no split'}; "
                "each file has to have one of train, val and test in its name"
            )
    return {name: splits[0] for name, splits in found.items()}
