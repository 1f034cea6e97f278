"""Parses the names of ingredients into ids of the label space; for an unknown name the nearest ones are suggested.

parse_ingredients("rice, fried tofu", classes)  # [66, 33]
"""

import difflib
from collections.abc import Sequence

from foodseg.classes import BACKGROUND, ClassTable
from foodseg.errors import UserError
from foodseg.models.text.synonyms import sentences_of

NEAREST = 3


def parse_ingredients(names: str | Sequence[str], classes: ClassTable, *, where: str = "--ingredients") -> list[int]:
    """Returns the ids of names, each once, in the order of the ids; case does not matter.

    Args:
        names: a list, or one text with commas between. where: what errors call it.

    Raises:
        UserError: there is no name, it is no text, or not an ingredient of `classes`; the nearest ones are suggested.
    """
    if not isinstance(names, str) and not all(isinstance(name, str) for name in names):
        raise UserError(f"{where} is a list of names, for all images alike; found {list(names)!r}")
    wanted = [word.strip() for word in (names.split(",") if isinstance(names, str) else names) if word.strip()]
    if not wanted:
        raise UserError(f'{where} is empty: name what is on the images, for example "rice, fried tofu"')
    own = {name.lower(): index for index, name in enumerate(classes.names) if index != BACKGROUND}
    found = set()
    for word in wanted:
        if word.lower() not in own:
            raise UserError(f"{where}: {word!r} is not one of the {len(own)} ingredients{_hint(word, classes)}")
        found.add(own[word.lower()])
    return sorted(found)


def nearest_names(word: str, classes: ClassTable) -> list[str]:
    """Returns up to NEAREST ingredients whose names, or words for them, are like `word`: by letters, then by words."""
    words = {said.lower(): name for name in classes.names[1:] for said in (name, *sentences_of(name))}
    near = difflib.get_close_matches(word.lower(), words, NEAREST)
    own = set(word.lower().split())
    near += [said for said in words if own & set(said.split())]
    return list(dict.fromkeys(words[said] for said in near))[:NEAREST]


def _hint(word: str, classes: ClassTable) -> str:
    near = nearest_names(word, classes)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "; `classes.tsv` of the checkpoint lists them"
