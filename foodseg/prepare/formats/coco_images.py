"""Finds the image that a `file_name` of a COCO file means, in the path conventions of many tools.

    finder = ImageFinder("downloads/meals")
    locations = finder.locate_all([ImageReference("annotations/instances_train.json", "train", "upload/4/000.jpg")])

First in the image folders of COCO layouts (`images/train2017`, `data`, next to the JSON, ...), under exactly that name.
Then in the whole source by the last part of the name: another case or Unicode form, a path from another machine
(`..\\label-studio\\media\\upload\\4\\000.jpg`, `/home/me/000.jpg`, `https://.../000.jpg?token`), %20 for a blank,
Label Studio's eight digits before the name; and, in the image folders of COCO layouts, another extension. Such a match
counts only if it is unambiguous: one file in the source, and one `file_name` for it.
"""

import logging
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from urllib.parse import unquote

from foodseg import storage
from foodseg.errors import UserError
from foodseg.prepare.formats.layout import EXTENSIONS, split_in_name, visible, visible_names, without_extension

# folders of masks and drawings, whose files have the names of the images
_NO_IMAGES = frozenset({
    "masks", "mask", "labels", "label", "annotations", "segmentationclass", "segmentationobject", "segmentations",
    "visualization", "visualizations", "segmentationclassvisualization", "segmentationclasspng", "ann", "gt",
    "thumbnails", "thumbs", "previews", "overlays",
})  # fmt: skip
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)")  # Label Studio puts this before the name of an uploaded file
_NEAR_NAMES = 20  # missing images for which a similar name is suggested: each is compared with every name

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageReference:
    """A `file_name`, with its COCO file and split."""

    document: str
    split: str
    file_name: str


@dataclass(frozen=True)
class Location:
    """`path` below the source; None = not found, and `reason` says why. `exact`: it is where `file_name` says."""

    path: str | None
    exact: bool = False
    reason: str = ""


class ImageFinder:
    """Finds images in a source; lists each folder once, and the whole source only when a name is not found."""

    def __init__(self, src: str) -> None:
        self._src = src
        self._names: dict[str, frozenset[str]] = {}
        self._tree: dict[str, list[str]] | None = None  # all images: {folded name without extension: paths}
        self._searched = 0

    def locate_all(self, wanted: Sequence[ImageReference]) -> list[Location]:
        """Returns the location of each image; logs those that are not where `file_name` says."""
        found = {one: self._locate(one) for one in dict.fromkeys(wanted)}
        claims: dict[str, set[str]] = defaultdict(set)
        for one, location in found.items():
            if location.path is not None:
                claims[location.path].add(one.file_name)
        for one, location in found.items():
            others = sorted(claims[location.path] - {one.file_name}) if location.path is not None else []
            if others and not location.exact:
                reason = f"file_name {one.file_name!r} may mean {location.path}, but so does {others[0]!r}"
                found[one] = Location(None, reason=reason)
        self._log_found({one: location for one, location in found.items() if location.path and not location.exact})
        return [found[one] for one in wanted]

    def unused(self, used: Sequence[str]) -> list[str]:
        """Returns the images that are in the same folders as the `used` ones but are not used."""
        taken = set(used)
        folders = sorted({posixpath.dirname(path) for path in taken})
        paths = [posixpath.join(folder, name) for folder in folders for name in sorted(self._list(folder))]
        return [path for path in paths if path not in taken and path.lower().endswith(EXTENSIONS)]

    def _locate(self, wanted: ImageReference) -> Location:
        written_paths = list(_written_paths(wanted.file_name))
        folders = _folders(wanted.document, wanted.split)
        if ".." in written_paths[0]:  # as a path relative to the COCO file
            path = posixpath.normpath(posixpath.join(posixpath.dirname(wanted.document), *written_paths[0]))
            if ".." not in path.split("/") and self._has(path):
                return Location(path, exact=True)
        for written in written_paths:
            for folder in folders:
                path = posixpath.join(folder, *written)
                if ".." not in written and self._has(path):
                    return Location(path, exact=written == written_paths[0])
        return self._search(wanted, written_paths, folders)

    def _has(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in self._list(folder)

    def _list(self, folder: str) -> frozenset[str]:
        if folder not in self._names:
            if folder and not self._has(folder):
                names: list[str] = []
            else:
                try:
                    names = visible_names(storage.join(self._src, folder))
                except UserError:  # a file, or a name that the storage does not allow
                    names = []
            self._names[folder] = frozenset(names)
        return self._names[folder]

    def _search(
        self, wanted: ImageReference, written_paths: Sequence[tuple[str, ...]], folders: Sequence[str]
    ) -> Location:
        tree = self._images()
        spelled = [[part for part in written if part != ".."] for written in written_paths]
        names = list(dict.fromkeys(written[-1] for written in spelled if written))
        names += [_UPLOAD.sub("", name, count=1) for name in names if _UPLOAD.match(name)]
        for name in names:
            stem = _fold(without_extension(name))
            same_stem = tree.get(stem, [])
            same_name = [path for path in same_stem if _fold(posixpath.basename(path)) == _fold(name)]
            own_locations = {
                _fold(posixpath.join(folder, *written[:-1], stem))
                for folder in folders
                for written in ([stem], *spelled)
            }
            other_extension = [path for path in same_stem if _fold(without_extension(path)) in own_locations]
            for candidates in (same_name, other_extension):
                best = _best(candidates, spelled, folders, wanted)
                if len(best) == 1:
                    return Location(best[0])
                if best:
                    either = f"may mean {best[0]} or {best[1]}: write its path from the source folder"
                    return Location(None, reason=f"file_name {wanted.file_name!r} {either}")
        return Location(None, reason=f"file_name {wanted.file_name!r} is not in the data set{self._near(names)}")

    def _images(self) -> dict[str, list[str]]:
        if self._tree is None:
            self._tree = defaultdict(list)
            for path in storage.list_tree(self._src):
                *above, name = path.split("/")
                hidden = len(visible([*above, name])) <= len(above)
                if not hidden and name.lower().endswith(EXTENSIONS) and not _NO_IMAGES & set(map(str.lower, above)):
                    self._tree[_fold(without_extension(name))].append(path)
        return self._tree

    def _near(self, names: Sequence[str]) -> str:
        """Returns the end of a sentence: an image with a similar name."""
        tree = self._images()
        if not tree:
            return ", which holds no images"
        self._searched += 1
        if self._searched > _NEAR_NAMES:
            return ""
        near = [key for name in names for key in get_close_matches(_fold(without_extension(name)), tree, n=1)]
        example = tree[near[0]][0] if near else next(iter(tree.values()))[0]
        return f"; {example} is there" if near else f"; there is {example}, for example"

    def _log_found(self, found: dict[ImageReference, Location]) -> None:
        by_document: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for one, location in found.items():
            by_document[one.document].append((one.file_name, str(location.path)))
        for document, pairs in by_document.items():
            name, path = pairs[0]
            _log.info(
                "%s: %d images are not where `file_name` says and were found by the last part of it: %r is %s",
                document, len(pairs), name, path,
            )  # fmt: skip


def _best(
    candidates: Sequence[str], written_paths: Sequence[Sequence[str]], folders: Sequence[str], wanted: ImageReference
) -> list[str]:
    """Returns the candidates that best fit the path in the name, then the COCO file, then the split."""
    if len(candidates) < 2:
        return list(candidates)
    base = _base(wanted.document)
    direct = {
        _fold(without_extension(posixpath.join(folder, *written))) for folder in folders for written in written_paths
    }
    scores = {
        path: (
            _fold(without_extension(path)) in direct,
            max(_common_tail(path, written) for written in written_paths),
            path.startswith(f"{base}/") or not base,
            split_in_name(path) == wanted.split,
        )
        for path in candidates
    }
    top = max(scores.values())
    return [path for path in candidates if scores[path] == top]


def _common_tail(path: str, written: Sequence[str]) -> int:
    """Counts the folders directly above the file that both paths share."""
    count = 0
    for own, other in zip(reversed(path.split("/")[:-1]), reversed(written[:-1]), strict=False):
        if _fold(own) != _fold(other):
            break
        count += 1
    return count


def _base(document: str) -> str:
    """Returns the folder that a COCO file describes: its own, or the parent where its own is annotations/."""
    folder = posixpath.dirname(document)
    return posixpath.dirname(folder) if posixpath.basename(folder).lower() == "annotations" else folder


def _folders(document: str, split: str) -> list[str]:
    """Returns the folders that a `file_name` may be relative to; "" = the source itself."""
    folder, _, file_name = document.rpartition("/")
    tag = file_name.rsplit(".", 1)[0].removeprefix("instances_")
    bases = dict.fromkeys((_base(document), ""))
    folders = (f"images/{tag}", f"images/{split}", "images", "data", "JPEGImages", tag, split)
    tried = [posixpath.join(base, name) for base in bases for name in folders]
    return list(dict.fromkeys([*tried, folder, *bases]))


def _written_paths(file_name: str) -> Iterator[tuple[str, ...]]:
    """Yields the parts of the paths that a `file_name` may mean: as written, then without the extras of a URL."""
    yield _parts(file_name)
    texts = [file_name]
    if "://" in file_name:
        texts.append(file_name.partition("://")[2].partition("/")[2])
    texts += [text.partition("?")[0] for text in texts if "?" in text]
    texts += [
        text.partition("?d=")[2].partition("&")[0] for text in texts if "?d=" in text
    ]  # Label Studio's local files
    texts += [unquote(text) for text in texts if "%" in text]
    texts += [text.strip() for text in texts if text != text.strip()]
    yield from (parts for text in reversed(texts) if (parts := _parts(text)))


def _parts(path: str) -> tuple[str, ...]:
    parts = [part for part in path.replace("\\", "/").split("/") if part not in ("", ".")]
    drive = bool(parts) and re.fullmatch(r"[A-Za-z]:", parts[0])
    return tuple(parts[1:] if drive else parts)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
