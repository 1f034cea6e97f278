"""Which JSON files of a folder are COCO annotations: the layouts of the tools that write them.

    <src>/annotations/instances_train2017.json      COCO, CVAT, Datumaro; other files there are left aside
    <src>/train/_annotations.coco.json              Roboflow; or another .json there, or below train/annotations/
    <src>/annotations.json                          labelme2coco, FiftyOne (labels.json), Label Studio (result.json)
    <src>/data/annotations.json                     TACO, Supervisely: one folder deeper, or its annotations/

The first of these places that holds COCO files is taken. What a .json is shows in its first and last bytes.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from foodseg import storage
from foodseg.data.formats.layout import visible_names
from foodseg.errors import UserError

ROBOFLOW = "_annotations.coco.json"
NEEDS = "annotations/*.json, train/_annotations.coco.json, or a .json that lists `images` beside them"

_ANNOTATIONS = "annotations"
_SPLIT_FOLDERS = ("train", "training", "valid", "val", "validation", "test", "testing")
_OTHER_TASKS = ("captions", "person_keypoints", "keypoints", "panoptic", "image_info", "labels_")
_PEEK = 1 << 20  # bytes at either end: the lists `images` and `annotations` come in any order
_MAX_FILES = 100  # looked into in one folder: annotation tools that write one file per image write thousands
_COCO = re.compile(r'"images?"\s*:\s*\[|"file_?name"\s*:', re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotationFiles:
    """Paths below the source.

    Attributes:
        paths: the COCO files; where there are none, the .json that came nearest.
        coco: they look like COCO files.
        own_place: they lie where COCO files lie, and not only beside something else.
    """

    paths: tuple[str, ...]
    coco: bool
    own_place: bool


def find_annotation_files(src: str) -> AnnotationFiles:
    """Finds the COCO files of a data set; looks into those whose names do not tell."""
    here = visible_names(src)
    folders = [name for name in here if "." not in name]  # a name with a dot is nearly always a file
    splits = [name for name in folders if name.lower() in _SPLIT_FOLDERS]
    own = [name for name in folders if name.lower() == _ANNOTATIONS]
    levels = (
        (own, True),
        ([*splits, *(f"{name}/{_ANNOTATIONS}" for name in splits)], True),
        ([""], False),
        (
            [place for name in folders if name not in (*splits, *own) for place in (name, f"{name}/{_ANNOTATIONS}")],
            False,
        ),
    )
    nearest: list[str] = []
    for places, own_place in levels:
        jsons = [path for place in places for path in _json_paths(src, place)]
        found = _coco_files(src, jsons)
        if found:
            aside = [path for path in jsons if path not in found]
            if aside:
                _log.info("%s: %s are no COCO instances and are left aside", storage.redact(src), _some(aside))
            return AnnotationFiles(tuple(found), True, own_place)
        nearest = nearest or jsons
    return AnnotationFiles(tuple(nearest[:1]), False, False)


def _json_paths(src: str, place: str) -> list[str]:
    try:
        names = visible_names(storage.join(src, place))
    except UserError:  # a file
        return []
    found = [name for name in names if name.lower().endswith(".json")]
    if len(found) > _MAX_FILES:
        where = storage.redact(storage.join(src, place))
        _log.warning("%s: %d .json files, of which the first %d are looked into", where, len(found), _MAX_FILES)
    return [f"{place}/{name}".lstrip("/") for name in found[:_MAX_FILES]]


def _coco_files(src: str, paths: Sequence[str]) -> list[str]:
    """Returns which of the files are COCO instances: by their names where these tell, else by what is in them."""
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


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
