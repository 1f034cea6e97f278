"""Names that are looked for on images, as people type them; without torch, so that a server refuses bad ones at once.

parse_names("kimchi, white rice|steamed rice").labels       # ("kimchi", "white rice")
"""

from collections.abc import Sequence
from dataclasses import dataclass

from foodseg.classes import ClassTable
from foodseg.errors import UserError

BACKGROUND_NAME = "background"
LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Names:
    """Names that are looked for: labels, and of each the words for it, of which the one that fits best counts."""

    labels: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]

    @property
    def classes(self) -> ClassTable:
        """The label space: background, then the names in their order."""
        return ClassTable((BACKGROUND_NAME, *self.labels))


def parse_names(names: str | Sequence[str], *, where: str = "names") -> Names:
    """Reads names, several words for one between bars; the first word is the label.

    Args:
        names: a list, or one text with commas between: "kimchi, white rice|steamed rice". where: what errors call it.

    Raises:
        UserError: there is none, it is no text, a label occurs twice, or is "background", which is what fits none.
    """
    given = names.split(",") if isinstance(names, str) else list(names)
    if not all(isinstance(name, str) for name in given):
        raise UserError(f"{where} is a list of texts, found {given!r}")
    words = [tuple(dict.fromkeys(" ".join(word.split()) for word in name.split("|") if word.strip())) for name in given]
    words = [own for own in words if own]
    if not words:
        raise UserError(f'{where} is empty: name what to look for, for example "kimchi, rice"')
    labels = tuple(own[0] for own in words)
    strange = next((word for own in words for word in own if not word.isprintable()), None)
    if strange is not None:
        raise UserError(f"{where}: {strange!a} has a character that cannot be printed")
    long = next((word for own in words for word in own if len(word) > LONGEST), None)
    if long is not None:
        raise UserError(f"{where}: {long[:40]!r}... has {len(long):,} characters; a name has at most {LONGEST}")
    seen: set[str] = set()
    for label in labels:
        if label.lower() == BACKGROUND_NAME:
            raise UserError(f"{where}: {label!r} is what fits none of the names: leave it out")
        if label.lower() in seen:
            raise UserError(f"{where}: {label!r} occurs twice")
        seen.add(label.lower())
    return Names(labels, tuple(words))
