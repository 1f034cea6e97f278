"""A table that maps the ids of one label space to those of another; used by `data map` and `evaluate --map`.

    meals_id<TAB>meals_name<TAB>foodseg103_id<TAB>foodseg103_name<TAB>source
    0<TAB>background<TAB>0<TAB>background
    3<TAB>tofu<TAB>68<TAB>tofu
    4<TAB>soup<TAB>57<TAB>soup<TAB>canteen
    4<TAB>soup<TAB>ignore

Several ids may become one (a merge). The fifth column is optional; a line with a source applies only to images of that
source and has precedence over a line without one, so that an id can be split. An empty target or `ignore` is the ignore
id.
"""

import hashlib
import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from foodseg import storage
from foodseg.classes import BACKGROUND, IGNORE_16BIT, ClassTable, same_name
from foodseg.errors import UserError

IGNORE = "ignore"  # the word for the ignore id in the column of target ids
_NAMED = 3  # ids that an error message names

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelSpaceMap:
    """A parsed map from label space `from_space` into `to_space`.

    Attributes:
        where: the file, for error messages.
        from_names, to_names: names by id; `to_names` has only targets that some id is mapped to.
        targets: (id, source) -> target id or None = ignore; source None = every source without its own line.
    """

    where: str
    from_space: str
    to_space: str
    from_names: dict[int, str]
    to_names: dict[int, str]
    targets: dict[tuple[int, str | None], int | None]

    @property
    def digest(self) -> str:
        """Returns 12 hex digits that identify the mapping."""
        return hashlib.sha256(repr(sorted(self.targets.items(), key=repr)).encode()).hexdigest()[:12]

    def source_mismatch(self, classes: ClassTable) -> str | None:
        """Says why this does not map from `classes`; None = it does: all its ids are mapped, under their own names."""
        unmapped = [index for index in range(len(classes)) if index not in self.from_names]
        for index, name in sorted(self.from_names.items()):
            if index >= len(classes):
                return f"id {index} is {name!r} in the map, but ids go from 0 to {len(classes) - 1}"
            if not same_name(classes.names[index], name):
                return f"id {index} is {name!r} in the map and {classes.names[index]!r} there"
        if unmapped:
            named = ", ".join(f"{index} {classes.names[index]!r}" for index in unmapped[:_NAMED])
            return f"{len(unmapped)} ids are not in the map, the first {named}"
        return None

    def target_mismatch(self, classes: ClassTable) -> str | None:
        """Says why this does not map into `classes`; None = it does: each target is an id of it, under its own name."""
        for index, name in sorted(self.to_names.items()):
            if index >= len(classes):
                return f"target {index} is {name!r} in the map, but ids go from 0 to {len(classes) - 1}"
            if not same_name(classes.names[index], name):
                return f"target {index} is {name!r} in the map and {classes.names[index]!r} there"
        return None

    def target(self) -> ClassTable:
        """Returns the target label space as far as it is in the map; other ids are called `unused <id>`.

        Raises:
            UserError: two targets have the same name.
        """
        names = {BACKGROUND: "background", **self.to_names}
        gaps = [index for index in range(max(names)) if index not in names]
        if gaps:
            _log.warning(
                "%s names no target %s%s: each is called 'unused <id>'; --classes FILE names them",
                self.where,
                ", ".join(map(str, gaps[:_NAMED])),
                f" nor {len(gaps) - _NAMED} others" if len(gaps) > _NAMED else "",
            )
        try:
            return ClassTable(tuple(names.get(index, f"unused {index}") for index in range(max(names) + 1)))
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None

    def becomes(self, index: int, source: str) -> int | None:
        """Returns the target of an id in images of `source`; None = ignore.

        Raises:
            UserError: the id has only lines for other sources.
        """
        for key in ((index, source), (index, None)):
            if key in self.targets:
                return self.targets[key]
        raise UserError(
            f"{self.where}: id {index} {self.from_names[index]!r} is mapped for some sources, but not for {source!r}: "
            "add a line for it, or one without a source"
        )

    def refuse_other_sources(self, sources: Collection[str]) -> None:
        """Raises UserError where a line is for a source that is not one of `sources`: it would have no effect."""
        named = {source for _, source in self.targets if source is not None}
        unknown = sorted(named - set(sources))
        if unknown:
            raise UserError(
                f"{self.where} has lines for source {unknown[0]!r}, but the sources of the data set are "
                f"{', '.join(map(repr, sorted(sources)))}"
            )

    def lookup(self, source: str, classes: ClassTable, target: ClassTable, *, ignored: int | None = None) -> np.ndarray:
        """Returns the table for `map_ids`: (ignore id of `classes` + 1,) ids of `target`, of its mask dtype.

        Args:
            ignored: value for ids that are mapped to `ignore`; None = the ignore id of `target`, as for the ignore id
                itself.
        """
        table = np.full(classes.ignore_id + 1, target.ignore_id, target.mask_dtype)
        instead = target.ignore_id if ignored is None else ignored
        for index in range(len(classes)):
            to = self.becomes(index, source)
            table[index] = instead if to is None else to
        return table

    def annotated(
        self, source: str, ids: Iterable[int] | None, classes: ClassTable, target: ClassTable
    ) -> tuple[int, ...] | None:
        """Returns which target ids `source` annotates, sorted, if it annotates `ids` (None = all); None = all.

        A target is annotated if ids are mapped to it and all of them are annotated; background always is. So a data
        set does not claim the absence of ingredients that it never annotated, or annotated only in part.
        """
        own = set(range(len(classes)) if ids is None else ids)
        to = {index: self.becomes(index, source) for index in range(len(classes))}
        partial = {to[index] for index in to if index not in own}
        found = {BACKGROUND} | {known for index in own if (known := to[index]) is not None and known not in partial}
        return None if len(found) == len(target) else tuple(sorted(found))


def map_ids(ids: np.ndarray, table: np.ndarray, classes: ClassTable) -> np.ndarray:
    """Maps (H, W) ids of `classes` by a table that `LabelSpaceMap.lookup` made; its dtype is the table's.

    Raises:
        UserError: an id outside `classes`.
    """
    strange = ids[(ids >= len(classes)) & (ids != classes.ignore_id)]
    if len(strange):
        raise UserError(f"a mask holds id {strange[0]}, but ids go from 0 to {len(classes) - 1}")
    return table[ids]


def read_label_space_map(uri: str) -> LabelSpaceMap:
    """Reads the map at `uri`; raises UserError as `parse_label_space_map`, and where the file does not exist."""
    return parse_label_space_map(storage.read_text(uri), storage.redact(uri))


def read_target(space_map: LabelSpaceMap, classes: str | None) -> ClassTable:
    """Returns the target label space: the class table (id<TAB>name) at `classes`, or the part in the map.

    Raises:
        UserError: the table does not parse, lacks a target or has another name for it.
    """
    if classes is None:
        return space_map.target()
    table = ClassTable.from_text(storage.read_text(classes), storage.redact(classes))
    mismatch = space_map.target_mismatch(table)
    if mismatch is not None:
        raise UserError(f"--classes {storage.redact(classes)} does not fit {space_map.where}: {mismatch}")
    return table


def parse_label_space_map(text: str, where: str) -> LabelSpaceMap:
    """Parses a map; `where` names the file in errors.

    Raises:
        UserError: no header, a malformed line, an id that is mapped twice or named in two ways, or a background that
            becomes an ingredient.
    """
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    header = _fields(lines[0][1]) if lines else []
    spaces = [name.removesuffix("_id") for name in header[:3:2]]
    columns = [f"{space}{end}" for space in spaces for end in ("_id", "_name")]
    if len(spaces) < 2 or header not in (columns, [*columns, "source"]):
        raise UserError(
            f"{where}, line 1: expected the tab-separated header FROM_id FROM_name TO_id TO_name and optionally "
            f"source, with the names of the two label spaces as FROM and TO; found {' '.join(header)[:80]!r}"
        )
    from_names: dict[int, str] = {}
    to_names: dict[int, str] = {}
    targets: dict[tuple[int, str | None], int | None] = {}
    for number, line in lines[1:]:
        here = f"{where}, line {number}"
        fields = _fields(line)
        if not 3 <= len(fields) <= len(header):
            raise UserError(f"{here}: expected {len(header)} tab-separated columns, found {line.strip()[:60]!r}")
        fields += [""] * (5 - len(fields))
        index, to = _id(fields[0], here), None if fields[2] in ("", IGNORE) else _id(fields[2], here)
        _name(from_names, index, fields[1], here)
        if to is not None:
            _name(to_names, to, fields[3], here)
        elif fields[3] not in ("", IGNORE):
            raise UserError(f"{here}: target {fields[3]!r} has no id; give its id, or leave the name out to ignore")
        key = (index, fields[4] or None)
        if key in targets:
            raise UserError(f"{here}: id {index} is mapped twice for {fields[4] or 'every source'}")
        if index == BACKGROUND and to not in (BACKGROUND, None):
            raise UserError(f"{here}: id 0 is background and becomes 0 or ignore, found {to} {fields[3]!r}")
        targets[key] = to
    if not to_names:
        raise UserError(f"{where}: it maps no id")
    return LabelSpaceMap(where, spaces[0], spaces[1], from_names, to_names, targets)


def _fields(line: str) -> list[str]:
    return [field.strip() for field in line.split("\t")]


def _id(text: str, here: str) -> int:
    if not text.isdecimal() or int(text) >= IGNORE_16BIT:
        raise UserError(f"{here}: expected an id from 0 to {IGNORE_16BIT - 1}, found {text!r}")
    return int(text)


def _name(names: dict[int, str], index: int, name: str, here: str) -> None:
    if not name:
        raise UserError(f"{here}: id {index} has no name")
    if not same_name(names.setdefault(index, name), name):
        raise UserError(f"{here}: id {index} is {name!r} here and {names[index]!r} further up")
