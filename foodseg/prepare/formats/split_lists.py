"""Lists of images as people write them: one a line, with or without folder and extension.

    for line in read_list("meals/train.txt", index):
        line.path        # the file that it means; None = refused

Blank lines and comments (`# ...`) that do not name a file are skipped. A repeated file is listed once. Repetitions and
lines that had to be interpreted are logged.
"""

import logging
import re
import unicodedata
from dataclasses import dataclass

from foodseg import storage
from foodseg.data.unread import UnreadImage
from foodseg.errors import UserError
from foodseg.prepare.formats.file_index import FileIndex
from foodseg.prepare.formats.layout import without_extension
from foodseg.prepare.record import ImageFile, Unreadable

_NEAR = 20  # lines of a list for which a similar name is suggested

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ListedImage:
    """A line of a list. `path` of its image below the folder of images; None = not found, `refusal` says why."""

    text: str
    path: str | None
    refusal: Unreadable | None = None

    @property
    def stem(self) -> str:
        """The path without extension, as the file is spelled, in composed characters (NFC)."""
        text = self.text.replace("\\", "/").strip("/") if self.path is None else self.path
        return unicodedata.normalize("NFC", without_extension(text))

    @property
    def key(self) -> str:
        """The name to match masks by: the path, or the stem where the image does not exist."""
        return self.path or self.stem

    def image(self, files: FileIndex) -> UnreadImage:
        """Returns the location of the image."""
        if self.path is not None:
            try:
                return ImageFile(storage.join(files.root, self.path))
            except UserError as error:  # a name that the storage does not allow
                return Unreadable(str(error))
        assert self.refusal is not None
        return self.refusal


def read_list(uri: str, files: FileIndex) -> list[ListedImage]:
    """Reads a list of images in `files`.

    Raises:
        UserError: there is no such list, or it is not text.
    """
    name = storage.redact(uri).rpartition("/")[2]
    lines: list[ListedImage] = []
    seen: set[str] = set()
    repeated, interpreted = [], []
    missing = 0
    for text in storage.read_text(uri).split("\n"):
        text = text.strip()
        if not text:
            continue
        found = files.find(text) or files.find(_first_column(text))
        if not found and text.startswith("#"):
            continue
        line = _listed_image(text, found, name, files, near=missing < _NEAR)
        missing += line.path is None
        if (line.path or text) in seen:
            repeated.append(text)
            continue
        seen.add(line.path or text)
        lines.append(line)
        if line.path is not None and without_extension(line.path) != without_extension(text):
            interpreted.append((text, line.path))
    if repeated:
        _log.warning(
            "%s lists %d images more than once; each is taken once (the first is %r)", name, len(repeated), repeated[0]
        )
    if interpreted:
        _log.info(
            "%s: lines that are spelled differently from their image: %d; %r is read as %s",
            name,
            len(interpreted),
            *interpreted[0],
        )
    return lines


def _first_column(text: str) -> str:
    """Returns the first of several columns if it names an image ("a.jpg a.png"), else ""."""
    column, *others = re.split(r"[\s,;]+", text, maxsplit=1)
    return column if others and without_extension(column) != column else ""


def _listed_image(text: str, found: list[str], name: str, files: FileIndex, *, near: bool) -> ListedImage:
    if len(found) == 1:
        return ListedImage(text, found[0])
    folder = storage.redact(files.root).rpartition("/")[2]
    if found:
        both = " and ".join(f"{folder}/{path}" for path in found[:2])
        reason = (
            f"{name} lists {text!r}, and {both} both have that name: write the extension into the list, or rename one"
        )
        return ListedImage(text, None, Unreadable(reason, "ambiguous_name"))
    foreign = files.foreign(text)
    if foreign is not None:
        return ListedImage(text, foreign)
    close = files.near(text) if near else None
    hint = f" ({folder}/{close} is there)" if close else ""
    return ListedImage(
        text, None, Unreadable(f"{name} lists {text!r}, and no image in {folder}/ has that name{hint}", "missing_file")
    )
