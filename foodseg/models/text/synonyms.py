"""Plain words for odd class names; without torch, so that a server can answer a misspelt name at once."""

from importlib.resources import files


def sentences_of(name: str) -> list[str]:
    """Returns the words for a class name: its own, or what `synonyms.tsv` says instead of an odd one."""
    for line in files("foodseg.models.text").joinpath("synonyms.tsv").read_text(encoding="utf-8").splitlines():
        odd, *words = line.split("\t")
        if odd == name:
            return words
    return [name]
