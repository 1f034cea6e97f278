"""Label spaces: which id means which ingredient, its colour, and which id means "ignore".

Id 0 is background (plates, tables, cutlery). Masks with at most 255 ids are stored in 8 bits with 255 = ignore, larger
label spaces in 16 bits with 65535 = ignore. Label spaces never mix by accident: a checkpoint and a prepared data set
each carry their own `ClassTable`, and the two are compared before anything is scored.
"""

import colorsys
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from foodseg.errors import UserError

BACKGROUND = 0
IGNORE_8BIT = 255
IGNORE_16BIT = 65535

_BACKGROUNDS = ("background", "_background_", "__background__", "bg")  # first of a list of names alone
_HEADERS = ("id", "ids", "class", "class_id", "class id", "classid", "category", "category_id", "label", "label_id")
# "1 rice", "1,rice", "1: rice", "1. rice", "1) rice", "1 - rice", "1.0,rice"
_OTHER_FORM = re.compile(r"(\d+)(?:\.0+)?(?:\s*[,;:=|]\s*|[.)]\s+|\s+-\s+|\s+)(\S.*)")
_ID = re.compile(r"(\d+)(?:\.0+)?")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassTable:
    """The names of ids 0..K-1, in order. `names[0]` is the background."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise UserError(
                f"a class table needs background and at least one ingredient, this one has {len(self.names)} names"
            )
        if len(self.names) > IGNORE_16BIT:
            raise UserError(f"a class table holds at most {IGNORE_16BIT} names, this one has {len(self.names)}")
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise UserError(f"class names must differ, but {', '.join(map(repr, repeated))} occurs more than once")

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ignore_id(self) -> int:
        """The mask value that is never scored and never trained on."""
        return IGNORE_8BIT if len(self.names) <= IGNORE_8BIT else IGNORE_16BIT

    @property
    def mask_dtype(self) -> type[np.unsignedinteger]:
        """The dtype of masks in this label space: uint8, or uint16 where 8 bits do not suffice."""
        return np.uint8 if self.ignore_id == IGNORE_8BIT else np.uint16

    def palette(self) -> np.ndarray:
        """Returns (K, 3) uint8 RGB colours: black for background, then hues a golden ratio apart."""
        colours = [(0, 0, 0)]
        for index in range(1, len(self.names)):
            hue = (index * 0.61803398875) % 1.0
            value, saturation = (0.95, 0.75) if index % 2 else (0.75, 0.95)
            red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
            colours.append((round(red * 255), round(green * 255), round(blue * 255)))
        return np.asarray(colours, dtype=np.uint8)

    def to_text(self) -> str:
        """Returns the table as lines `id<TAB>name`."""
        return "".join(f"{index}\t{name}\n" for index, name in enumerate(self.names))

    @classmethod
    def from_text(cls, text: str, where: str) -> "ClassTable":
        """Parses lines `id<TAB>name` (see `parse_id_lines`); ids must be 0, 1, 2, ... without gaps.

        Names alone, one a line, are read where the first is "background": nothing else can be meant.

        Args:
            where: names the file in errors.

        Raises:
            UserError: a line is malformed, an id is missing or occurs twice.
        """
        named = _names_alone(text, where) or parse_id_lines(text, where)
        expected = list(range(len(named)))
        if sorted(named) != expected:
            missing = sorted(set(range(max(named, default=0) + 1)) - set(named))
            if missing == [BACKGROUND]:
                raise UserError(
                    f"{where}: ids begin at 0 = background (plates, tables, what is not listed), but these begin at 1: "
                    "add the line '0<TAB>background'; masks keep their values, and background has to be 0 there, too"
                )
            raise UserError(f"{where}: class ids must be 0, 1, 2, ... without gaps, but {missing[:5]} are missing")
        try:
            return cls(tuple(named[index] for index in expected))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None


def first_difference(names: Sequence[str], others: Sequence[str]) -> tuple[int, str, str] | None:
    """Returns the first id at which two label spaces differ, with what each calls it; None where they are equal.

    The names come quoted, for an error message; "nothing" where a label space has ended.
    """
    for index, pair in enumerate(zip_longest(names, others)):
        if pair[0] != pair[1]:
            name, other = ("nothing" if name is None else repr(name) for name in pair)
            return index, name, other
    return None


def same_name(name: str, other: str) -> bool:
    """True for two spellings of one name: composed characters (NFC) or not (NFD, as macOS writes file names)."""
    return name == other or unicodedata.normalize("NFC", name) == unicodedata.normalize("NFC", other)


def parse_id_lines(text: str, where: str) -> dict[int, str]:
    """Parses lines `id<TAB>name` (a name may be left out) into {id: name}; used for class tables and subsets of them.

    Blanks, a comma, a colon and the like are read in place of the tab, which the log says. A header, comments (`#`),
    blank lines, repeated lines and columns behind the name are skipped. Names are NFC.

    Raises:
        UserError: a line does not start with an id, or an id occurs twice with different names.
    """
    named: dict[int, str] = {}
    other_form, repeated = [], []
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    for position, (number, line) in enumerate(lines):
        if line.lstrip().startswith("#") or (position == 0 and _is_header(line)):
            continue
        found = _id_and_name(line)
        if found is None:
            raise UserError(f"{where}, line {number}: expected 'id<TAB>name', found {line[:60].rstrip()!r}")
        index, name = found
        if index in named and not same_name(named[index], name):
            raise UserError(f"{where}, line {number}: id {index} occurs twice")
        if index in named:
            repeated.append(number)
        if name and "\t" not in line:
            other_form.append((line.strip(), index, name))
        named[index] = name
    if other_form:
        _log.info("%s has no tabs; %r is read as id %d, name %r", where, *other_form[0])
    if repeated:
        _log.warning("%s: line %d repeats a line before; it is read once", where, repeated[0])
    return named


def _id_and_name(line: str) -> tuple[int, str] | None:
    key, tab, rest = line.strip().partition("\t")
    name = rest.partition("\t")[0]
    if not tab and (found := _OTHER_FORM.fullmatch(key)):
        key, name = found[1], found[2]
    number = _ID.fullmatch(key.strip())
    if number is None:
        return None
    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] == '"':  # as spreadsheets write CSV
        name = name[1:-1].replace('""', '"').strip()
    return int(number[1]), unicodedata.normalize("NFC", name)


def _is_header(line: str) -> bool:
    first = re.split(r"[\t,;|]| {2,}", line.strip())[0].strip(' "#').lower()
    return first in _HEADERS or re.fullmatch(r"(class_?)?id\s+\w+", line.strip().lower()) is not None


def _names_alone(text: str, where: str) -> dict[int, str] | None:
    """Parses one name a line, background first, into {id: name}; None where the text begins otherwise."""
    names = [unicodedata.normalize("NFC", line.strip()) for line in text.split("\n") if line.strip()]
    if names[:1] == ["__ignore__"]:  # labelme's id -1
        names = names[1:]
    if not names or names[0].lower() not in _BACKGROUNDS:
        return None
    _log.info("%s has no ids; the names get 0, 1, 2, ... in their order", where)
    return dict(enumerate(names))
