"""Label maps in a folder, made by any other program: which file belongs to which image, and what is wrong with it.

    labels = find_predictions("peer/maps", classes, image_ids)  # refuses a folder in which none is found
    labels("lunch-1", b"", (480, 640)).ids

`<image_id>.png` is the rule. Where an image has no such file, but exactly one other that can be meant (another
extension, `_mask` behind the id, the extension of the image before `.png`), that one is read, and a log line says so.
"""

import logging
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foodseg import storage
from foodseg.classes import BACKGROUND, ClassTable
from foodseg.data.image_io import decode_mask
from foodseg.errors import MissingFile, UserError
from foodseg.eval.scoring import BadPrediction, Labels
from foodseg.prepare.formats.layout import visible_names

LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
_ENDINGS = (*LOSSLESS, ".jpg", ".jpeg", ".webp", ".gif", ".npy")
_MARK = re.compile(r"[_.-]?(mask|pred|prediction|seg|segmentation|label|label_?map|jpe?g|tiff?|webp|bmp)s?$", re.I)
_SHOWN = 3
_FOLDERS = 20  # subfolders that are searched for a hint
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictionFolder:
    """A folder of label maps, each one channel of ids of the mask's own size.

    Attributes:
        files: by image_id the file below `uri`, for images that have one; None = `<image_id>.png` of every image.
    """

    uri: str
    classes: ClassTable
    files: Mapping[str, str] | None = None

    def __call__(self, image_id: str, image: bytes, size: tuple[int, int]) -> Labels:
        """Reads the label map of an image of which the mask has `size` (height, width).

        Raises:
            BadPrediction: it is missing or not a label map, has another size, or holds an id outside the label space.
        """
        name = f"{image_id}.png" if self.files is None else self.files.get(image_id)
        where = storage.join(self.uri, name or f"{image_id}.png")
        shown = storage.redact(where)
        missing = f"{shown} is missing; every labelled image of the split needs its label map"
        if name is None:
            raise BadPrediction(missing)
        try:
            ids = decode_mask(storage.read_bytes(where))
        except MissingFile:
            raise BadPrediction(missing) from None
        except UserError as error:
            raise BadPrediction(f"{shown}: {error}") from None
        if ids.shape != tuple(size):
            raise BadPrediction(
                f"{shown} is {ids.shape[1]} x {ids.shape[0]} pixels, its mask {size[1]} x {size[0]}: a label map has "
                "the size of its image as shown"
            )
        strange = ids[(ids >= len(self.classes)) & (ids != self.classes.ignore_id)]
        if len(strange):
            raise BadPrediction(f"{shown} holds id {strange.max()}, {self._id_hint(ids, int(strange.max()))}")
        return Labels(ids)

    def _id_hint(self, ids: np.ndarray, strange: int) -> str:
        last = len(self.classes) - 1
        said = f"the label space goes to {last}"
        if strange == last + 1 and BACKGROUND not in ids:
            return f"{said} and the file has no 0: are the ids counted from 1? {BACKGROUND} is background"
        return said


def find_predictions(uri: str, classes: ClassTable, image_ids: Sequence[str]) -> PredictionFolder:
    """Finds the label maps of images; logs unusual names that are read, and files that are passed over.

    Raises:
        UserError: there is no such folder, or no file in it belongs to any of the images. RetryLater: the storage does
            not answer.
    """
    shown = storage.redact(uri)
    if not image_ids:
        return PredictionFolder(uri, classes)
    folders = sorted({image_id.rpartition("/")[0] for image_id in image_ids})
    found: dict[str, list[str]] = defaultdict(list)  # by id in composed letters
    names = []
    for folder in folders:
        for name in visible_names(storage.join(uri, folder) if folder else uri):
            path = f"{folder}/{name}" if folder else name
            stem, dot, _ = path.rpartition(".")
            if dot and path.lower().endswith(_ENDINGS):
                found[_composed(stem)].append(path)
            if path not in folders:
                names.append(path)
    marked: dict[str, list[str]] = defaultdict(list)
    for stem, paths in found.items():
        marked[_MARK.sub("", stem)] += paths
    files = {}
    for image_id in image_ids:
        file = _file_of(image_id, found.get(_composed(image_id), ()), marked.get(_composed(image_id), ()))
        if file is not None:
            files[image_id] = file
    if not files:
        raise UserError(f"--predictions: {_nothing(shown, uri, image_ids[0], names)}")
    odd = [file for image_id, file in files.items() if file != f"{image_id}.png"]
    if odd:
        _log.warning(
            "--predictions: %d label maps are not called <image_id>.png, but each can belong to one image only: "
            "they are read (%s)", len(odd), _some(odd),
        )  # fmt: skip
    taken = set(files.values())
    others = [name for name in names if name not in taken]
    if others:
        _log.warning("--predictions: %d files belong to no image that is scored: passed over (%s)",
                     len(others), _some(others))  # fmt: skip
    return PredictionFolder(uri, classes, files)


def _file_of(image_id: str, own: Sequence[str], marked: Sequence[str]) -> str | None:
    """Chooses the file of an image; None where there is none, or where it is ambiguous."""
    if f"{image_id}.png" in own:
        return f"{image_id}.png"
    for candidates in (own, marked):
        lossless = [name for name in candidates if name.lower().endswith(LOSSLESS)]
        if len(lossless or candidates) == 1:  # another format is refused by name when it is read
            return (lossless or candidates)[0]
    return None


def _nothing(shown: str, uri: str, first: str, names: Sequence[str]) -> str:
    """Says why no label map was found, and which folder or files were found instead."""
    expected = f"no file in {shown} is the label map of an image that is scored, such as {first}.png"
    if not names:
        return f"{shown} is empty or not there; it must hold {first}.png and so on"
    for folder in [name for name in names if "." not in name][:_FOLDERS]:
        if any(_composed(name).startswith(_composed(first)) for name in storage.list_names(storage.join(uri, folder))):
            return f"{expected}; {shown}/{folder} holds some: name that folder"
    return f"{expected}; it holds {_some(names)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
