"""Label spaces: which id means which ingredient, its colour, and which id means "ignore".

Id 0 is background (plates, tables, cutlery). Masks with at most 255 ids are stored in 8 bits with 255 = ignore, larger
label spaces in 16 bits with 65535 = ignore. Label spaces never mix by accident: a checkpoint and a prepared data set
each carry their own `ClassTable`, and the two are compared before anything is scored.
"""

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from foodseg.errors import UserError

BACKGROUND = 0
IGNORE_8BIT = 255
IGNORE_16BIT = 65535


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
            raise UserError(f"class names must differ, but {', '.join(map(repr, repeated))} stands more than once")

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
        """Parses lines `id<TAB>name`; ids must be 0, 1, 2, ... without gaps. `where` names the file in errors.

        Raises:
            UserError: a line is malformed, an id is missing or stands twice.
        """
        named = parse_id_lines(text, where)
        expected = list(range(len(named)))
        if sorted(named) != expected:
            missing = sorted(set(range(max(named, default=0) + 1)) - set(named))
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


def parse_id_lines(text: str, where: str) -> dict[int, str]:
    """Parses lines `id<TAB>name` (a name may be left out) into {id: name}; used for class tables and subsets of them.

    Raises:
        UserError: a line does not start with an id, or an id stands twice.
    """
    named: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        key, _, name = line.partition("\t")
        if not key.strip().isdecimal():
            raise UserError(f"{where}, line {number}: expected 'id<TAB>name', found {line[:60]!r}")
        index = int(key)
        if index in named:
            raise UserError(f"{where}, line {number}: id {index} stands twice")
        named[index] = name.strip()
    return named
