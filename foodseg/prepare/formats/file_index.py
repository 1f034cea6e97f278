"""The files of a folder and of the folders in it, and which of them somebody means who wrote a name.

    files = Files("s3://bucket/meals/images", EXTENSIONS)
    files.find("images/a.jpeg")       # ["a.jpg"]: without its folder, whatever the extension

A name is first taken as it is, then without folders in front, without extension, in another Unicode form or case, and
last with what URLs quote. Two files that fit equally well are both returned: the caller has to say so.
"""

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import unquote

from foodseg import storage
from foodseg.errors import UserError
from foodseg.prepare.formats.layout import EXTENSIONS, visible_names, without_extension

_DEEPEST = 4  # folders in folders that are looked into
_NOTES = (".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".yaml", ".yml", ".npy", ".npz")
_CLOSE = 0.8  # of difflib's ratio: one letter of five
_COMPARED = 5_000  # names that a near one is looked for among


def fold(name: str) -> str:
    """Returns what spellings of one name share: composed characters, no case."""
    return unicodedata.normalize("NFC", name).casefold()


class Files:
    """Files below `root` with one of the extensions, by their paths below it. Each folder is listed once."""

    def __init__(self, root: str, extensions: Sequence[str] = EXTENSIONS) -> None:
        self.root = root
        self._extensions = tuple(extensions)
        self._stems: dict[str, dict[str, list[str]]] = {}  # by folder, then by stem
        self._folded: dict[str, dict[str, list[str]]] = {}
        self._others: dict[str, list[str]] = {}
        self._everything: list[str] | None = None
        self._anywhere: dict[str, list[str]] = {}

    def everything(self) -> list[str]:
        """Returns the paths of all files, sorted."""
        if self._everything is None:
            self._everything = sorted(self._walk("", _DEEPEST))
            anywhere = defaultdict(list)
            for path in self._everything:
                anywhere[fold(without_extension(_name(path)))].append(path)
            self._anywhere = anywhere
        return self._everything

    def others(self) -> list[str]:
        """Returns the names in the root that have another extension, or none."""
        self._list("")
        return self._others[""]

    def find(self, written: str) -> list[str]:
        """Returns the paths that may be meant by `written`: [] = none, several = it cannot be told which."""
        for text in dict.fromkeys((written, unquote(written))):
            parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            for start in range(len(parts)):
                folder, name = "/".join(parts[start:-1]), parts[-1]
                if found := self._in_folder(folder, name):
                    return [f"{folder}/{one}".strip("/") for one in found]
            self.everything()
            for name in dict.fromkeys((parts[-1], without_extension(parts[-1]))) if parts else ():
                if fold(name) in self._anywhere:
                    return self._anywhere[fold(name)]
        return []

    def foreign(self, written: str) -> str | None:
        """Returns the one file in the root that `written` names although its extension is that of no image.

        `a.heic` or `a.jfif` for `a`: what it is, its content tells. Notes beside the images (`a.json`) are not meant.
        """
        name = _name(written.replace("\\", "/"))
        fitting = [
            other
            for other in self.others()
            if not other.lower().endswith(_NOTES) and fold(name) in (fold(other), fold(other.rpartition(".")[0]))
        ]
        return fitting[0] if len(fitting) == 1 else None

    def near(self, written: str) -> str | None:
        """Returns the path whose name is closest to `written`; None where none is close."""
        stem = without_extension(_name(written.replace("\\", "/")))
        paths = self.everything()
        if stem.isdecimal():
            for path in paths:
                name = without_extension(_name(path))
                if name.isdecimal() and int(name) == int(stem):
                    return path
        names = {without_extension(_name(path)): path for path in paths[:_COMPARED]}
        close = difflib.get_close_matches(stem, names, 1, _CLOSE)
        return names[close[0]] if close else None

    def _in_folder(self, folder: str, name: str) -> list[str]:
        self._list(folder)
        stems, folded = self._stems[folder], self._folded[folder]
        stem = without_extension(name)
        if name in stems.get(stem, ()):
            return [name]
        for key in dict.fromkeys((name, stem)):
            if key in stems:
                return stems[key]
        for key in dict.fromkeys((fold(name), fold(stem))):
            if key in folded:
                return folded[key]
        return []

    def _list(self, folder: str) -> None:
        if folder in self._stems:
            return
        try:
            names = visible_names(storage.join(self.root, folder) if folder else self.root)
        except UserError:
            if not folder:
                raise
            names = []  # a file without extension, or a name that the storage refuses
        stems, folded = defaultdict(list), defaultdict(list)
        own = [name for name in names if name.lower().endswith(self._extensions)]
        for name in own:
            stem = name.rsplit(".", 1)[0]
            stems[stem].append(name)
            folded[fold(stem)].append(name)
        self._stems[folder], self._folded[folder] = dict(stems), dict(folded)
        self._others[folder] = sorted(set(names) - set(own))

    def _walk(self, folder: str, deep: int) -> list[str]:
        self._list(folder)
        found = [f"{folder}/{name}".strip("/") for names in self._stems[folder].values() for name in names]
        for name in self._others[folder] if deep else ():
            if "." not in name[-6:]:  # what has an extension is a file
                found += self._walk(f"{folder}/{name}".strip("/"), deep - 1)
        return found


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
