"""Which JSON files of a folder are COCO annotations: the layouts of the tools that write them.

    <src>/annotations/instances_train2017.json      COCO, CVAT, Datumaro; other files there are skipped
    <src>/train/_annotations.coco.json              Roboflow; or another .json there, or below train/annotations/
    <src>/annotations.json                          labelme2coco, FiftyOne (labels.json), Label Studio (result.json)
    <src>/data/annotations.json                     TACO, Supervisely (meals/annotations/instances.json): deeper

The first of these locations that holds COCO files is used. The first and last bytes of a .json show whether it is COCO.
"""

import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from foodseg import storage
from foodseg.errors import UserError
from foodseg.prepare.formats.layout import visible, visible_names

ROBOFLOW = "_annotations.coco.json"
NEEDS = "annotations/*.json, train/_annotations.coco.json, or a .json that lists `images` next to them"

_ANNOTATIONS = "annotations"
_SPLIT_FOLDERS = ("train", "training", "valid", "val", "validation", "test", "testing")
_OTHER_TASKS = ("captions", "person_keypoints", "keypoints", "panoptic", "image_info", "labels_")
_PEEK = 1 << 20  # bytes at each end: the lists `images` and `annotations` come in any order
_MAX_FILES = 100  # files read in one folder: tools that write one file per image write thousands
_COCO = re.compile(r'"images?"\s*:\s*\[|"file_?name"\s*:', re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationFiles:
    """Paths below the source.

    Attributes:
        paths: the COCO files; without any, the .json in the likeliest location.
        skipped: other .json files in the same location.
        coco: whether `paths` are COCO files.
    """

    paths: tuple[str, ...]
    skipped: tuple[str, ...]
    coco: bool


def find_annotation_files(src: str, *, own_location: bool = False) -> AnnotationFiles:
    """Finds the COCO files of a data set; reads those whose names do not show it.

    Args:
        own_location: look only in annotations/ and in folders named after a split.
    """
    nearest: list[str] = []
    for jsons in _levels(src, own_location):
        found = _coco_files(src, jsons)
        if found:
            return AnnotationFiles(tuple(found), tuple(path for path in jsons if path not in found), True)
        nearest = nearest or jsons
    return AnnotationFiles(tuple(nearest[:1]), (), False)


def _levels(src: str, own_location: bool) -> Iterator[list[str]]:
    """Yields the .json files of one location after the other, the likeliest first."""
    here = visible_names(src)
    own = [name for name in here if name.lower() == _ANNOTATIONS]
    splits = [name for name in here if name.lower() in _SPLIT_FOLDERS]
    below = [f"{folder}/{name}" for folder in own for name in _names(src, folder) if name.lower() in _SPLIT_FOLDERS]
    for folders in (own, below, [*splits, *(f"{name}/{_ANNOTATIONS}" for name in splits)]):
        yield [path for folder in folders for path in _json_paths(src, folder, _names(src, folder))]
    if own_location:
        return
    yield _json_paths(src, "", here)
    deeper: dict[int, list[str]] = defaultdict(list)
    for path in storage.list_tree(src):
        parts = path.split("/")
        if len(parts) > 1 and visible(parts) == parts and path.lower().endswith(".json"):
            deeper[len(parts)].append(path)
    for depth in sorted(deeper):
        yield _first_files(src, deeper[depth])


def _names(src: str, folder: str) -> list[str]:
    try:
        return visible_names(storage.join(src, folder))
    except UserError:  # a file
        return []


def _json_paths(src: str, folder: str, names: Sequence[str]) -> list[str]:
    paths = [f"{folder}/{name}".lstrip("/") for name in names if name.lower().endswith(".json")]
    return _first_files(src, paths)


def _first_files(src: str, paths: list[str]) -> list[str]:
    if len(paths) > _MAX_FILES:
        where = f"{storage.redact(src)}: {len(paths)} .json files such as {paths[0]}"
        _log.warning("%s are in one folder; only the first %d are read", where, _MAX_FILES)
    return paths[:_MAX_FILES]


def _coco_files(src: str, paths: Sequence[str]) -> list[str]:
    """Returns which of the files are COCO instances: by their names where these show it, else by their content."""
    names = {path: path.rsplit("/", 1)[-1].lower() for path in paths}
    exported = [path for path in paths if names[path] == ROBOFLOW]
    instances = [path for path in paths if names[path].startswith("instances")]
    if exported or instances:
        return exported or instances
    rest = [path for path in paths if not names[path].startswith(_OTHER_TASKS)]
    return [path for path in rest or paths if _looks_like_coco(storage.join(src, path))]


def _looks_like_coco(uri: str) -> bool:
    with storage.open_input(uri) as stream:
        size = stream.size()
        data = bytes(stream.read(_PEEK))
        encoding = json.detect_encoding(data)
        text = data.decode(encoding, errors="replace")
        if size > _PEEK:
            stream.seek(max(_PEEK, size - _PEEK) // 4 * 4)  # not within a character of UTF-16 or UTF-32
            text += bytes(stream.read()).decode(encoding.removesuffix("-sig"), errors="replace")
    return _COCO.search(text) is not None
