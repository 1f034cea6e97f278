"""An index of the files of a folder and its subfolders, which finds the file that a written name means.

    index = FileIndex("s3://bucket/meals/images", EXTENSIONS)
    index.find("images/a.jpeg")       # ["a.jpg"]: without its folder, whatever the extension

A name is tried as written, then without leading folders, without extension, in another Unicode form or case, and last
with URL quoting undone. Two files that fit equally well are both returned: the caller has to report them.
"""

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from urllib.parse import unquote

from foodseg import storage
from foodseg.errors import UserError
from foodseg.prepare.formats.layout import EXTENSIONS, visible_names, without_extension

_DEEPEST = 4  # levels of subfolders that are searched
_NOTES = (".txt", ".json", ".xml", ".csv", ".tsv", ".md", ".yaml", ".yml", ".npy", ".npz")
_CLOSE = 0.8  # of difflib's ratio: one letter of five
_COMPARED = 5_000  # names that a similar one is searched among


def fold(name: str) -> str:
    """Returns the common form of all spellings of a name: composed characters, no case."""
    return unicodedata.normalize("NFC", name).casefold()


class FileIndex:
    """The files below `root` with one of the extensions, by relative path. Each folder is listed once."""

    def __init__(self, root: str, extensions: Sequence[str] = EXTENSIONS) -> None:
        self.root = root
        self._extensions = tuple(extensions)
        self._stems: dict[str, dict[str, list[str]]] = {}  # by folder, then by stem
        self._folded: dict[str, dict[str, list[str]]] = {}
        self._others: dict[str, list[str]] = {}
        self._everything: list[str] | None = None
        self._anywhere: dict[str, list[str]] | None = None

    def everything(self) -> list[str]:
        """Returns the paths of all files, sorted."""
        if self._everything is None:
            self._everything = sorted(self._walk("", _DEEPEST))
        return self._everything

    def others(self) -> list[str]:
        """Returns the names in the root with another extension or without one."""
        self._list("")
        return self._others[""]

    def find(self, written: str) -> list[str]:
        """Returns the paths that `written` may mean: [] = none, several = ambiguous."""
        for text in dict.fromkeys((written, unquote(written))):
            parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            for start in range(len(parts)):
                folder, name = "/".join(parts[start:-1]), parts[-1]
                if found := self._in_folder(folder, name):
                    return [_below(folder, one) for one in found]
            anywhere = self._by_name()
            for name in dict.fromkeys((parts[-1], without_extension(parts[-1]))) if parts else ():
                if fold(name) in anywhere:
                    return anywhere[fold(name)]
        return []

    def _by_name(self) -> dict[str, list[str]]:
        """Returns the paths of all files by their folded stems, made once a name is not where it was written."""
        if self._anywhere is None:
            self._anywhere = defaultdict(list)
            for path in self.everything():
                self._anywhere[fold(without_extension(_name(path)))].append(path)
        return self._anywhere

    def foreign(self, written: str) -> str | None:
        """Returns the one file in the root that `written` names although its extension is not that of an image.

        `a.heic` or `a.jfif` for `a`: its content decides what it is. Notes next to the images (`a.json`) do not count.
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
        stems = self._stems[folder]
        stem = without_extension(name)
        if name in stems.get(stem, ()):
            return [name]
        for key in dict.fromkeys((name, stem)):
            if key in stems:
                return stems[key]
        folded = self._folded_names(folder)
        for key in dict.fromkeys((fold(name), fold(stem))):
            if key in folded:
                return folded[key]
        return []

    def _folded_names(self, folder: str) -> dict[str, list[str]]:
        """Returns the names of a folder by their folded stems, made once a name is not spelled as it was written."""
        if folder not in self._folded:
            folded: dict[str, list[str]] = defaultdict(list)
            for stem, names in self._stems[folder].items():
                folded[fold(stem)] += names
            self._folded[folder] = dict(folded)
        return self._folded[folder]

    def _list(self, folder: str) -> None:
        if folder in self._stems:
            return
        try:
            names = visible_names(storage.join(self.root, folder) if folder else self.root)
        except UserError:
            if not folder:
                raise
            names = []  # a file without extension, or a name that the storage does not allow
        stems = defaultdict(list)
        own = [name for name in names if name.lower().endswith(self._extensions)]
        for name in own:
            stems[name.rsplit(".", 1)[0]].append(name)
        self._stems[folder] = dict(stems)
        self._others[folder] = sorted(set(names) - set(own))

    def _walk(self, folder: str, deep: int) -> list[str]:
        self._list(folder)
        found = [_below(folder, name) for names in self._stems[folder].values() for name in names]
        for name in self._others[folder] if deep else ():
            if "." not in name[-6:]:  # a name with an extension is a file
                found += self._walk(_below(folder, name), deep - 1)
        return found


def _below(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name  # the same text, and no copy of it


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]
