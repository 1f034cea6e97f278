"""What the published layouts share: files found whatever the case of their names, lists of stems, splits in names."""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foodseg import storage
from foodseg.data.record import ImageFile, Mask, Record, distinct_ids
from foodseg.errors import UserError

SPLITS = ("train", "val", "test")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_SPLIT_OF = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
_SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(_SPLIT_OF)})(?![a-z])")

_log = logging.getLogger(__name__)


# what desktops and file sharing leave behind in folders; in lower case
_LEFTOVERS = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin"})


def visible(names: Sequence[str]) -> list[str]:
    """Returns the names without hidden ones (a dot before them, as `._a.jpg` of macOS) and what desktops leave."""
    return [name for name in names if not name.startswith(".") and name.lower() not in _LEFTOVERS]


def visible_names(folder: str) -> list[str]:
    """Returns the sorted names in a folder that a data set may consist of, as `storage.list_names`."""
    return visible(storage.list_names(folder))


def locate(folder: str, path: str) -> str:
    """Returns the URI of `path` (parts with `/`) below `folder`, spelled as it is there whatever the case of `path`."""
    return _find(folder, path) or storage.join(folder, path)


def missing(folder: str, paths: Sequence[str]) -> list[str]:
    """Returns which of the `paths` are not below `folder`, whatever the case of their names."""
    return [path for path in paths if _find(folder, path) is None]


def refuse_missing(src: str, absent: Sequence[str], layout: str, needs: str) -> None:
    """Raises UserError where anything is `absent`, saying that `src` is not `layout` and what that one needs."""
    if absent:
        raise UserError(f"{storage.redact(src)} is not {layout}: {', '.join(absent)} missing; expected {needs}")


def _find(folder: str, path: str) -> str | None:
    for part in path.split("/"):
        names = [name for name in visible_names(folder) if name.lower() == part.lower()]
        if not names:
            return None
        folder = storage.join(folder, part if part in names else names[0])
    return folder


def by_stem(names: Sequence[str], extensions: tuple[str, ...] = EXTENSIONS) -> dict[str, str]:
    """Returns {stem: name} of the names that have one of the extensions."""
    return {name.rsplit(".", 1)[0]: name for name in names if name.lower().endswith(extensions)}


def without_extension(name: str) -> str:
    """Returns the name without the extension of a picture; any other dot stays."""
    return name.rsplit(".", 1)[0] if name.lower().endswith(EXTENSIONS) else name


@dataclass(frozen=True)
class ListedSplit:
    """A split of a published data set: its list of pictures, one a line, and the folders of pictures and masks."""

    split: str
    names: str
    images: str
    masks: str


def listed_records(splits: Sequence[ListedSplit], source: str, mask: Callable[[str], Mask]) -> tuple[Record, ...]:
    """Returns a record for each line of the lists; `mask` makes one of the URI of a mask file.

    Every picture of a published data set has a mask: where a file is not there, it is named all the same, so that the
    audit refuses the record. Pictures that no list names are left out and counted in the log.
    """
    found = []  # (split, stem, picture, mask)
    for part in splits:
        images = by_stem(visible_names(part.images))
        masks = by_stem(visible_names(part.masks), (".png",))
        stems = [_stem(line) for line in storage.read_text(part.names).splitlines() if line.strip()]
        unlisted = sorted(set(images) - set(stems))
        if unlisted:
            _log.warning(
                "%s does not name %d pictures of %s, which are left out; the first is %s",
                storage.redact(part.names), len(unlisted), storage.redact(part.images), images[unlisted[0]],
            )  # fmt: skip
        for stem in stems:
            picture = storage.join(part.images, images.get(stem, f"{stem}.jpg"))
            found.append((part.split, stem, picture, storage.join(part.masks, masks.get(stem, f"{stem}.png"))))
    ids = distinct_ids([stem for _, stem, _, _ in found], [f"{split}/{stem}" for split, stem, _, _ in found])
    return tuple(
        Record(image_id, split, source, ImageFile(picture), mask(mask_uri))
        for image_id, (split, _, picture, mask_uri) in zip(ids, found, strict=True)
    )


def _stem(line: str) -> str:
    return without_extension(line.strip().replace("\\", "/").rsplit("/", 1)[-1])


def splits_by_name(names: Sequence[str], where: str) -> dict[str, str]:
    """Returns the split that each file is named after: "instances_val2017.json" is val.

    A single file that names no split is all train. `where` names the data set in errors.

    Raises:
        UserError: a file that names no split, or several.
    """
    found = {name: sorted({_SPLIT_OF[word] for word in _SPLIT_WORD.findall(name.lower())}) for name in names}
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
