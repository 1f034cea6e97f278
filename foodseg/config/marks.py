"""What a key means beyond its type: marks on the fields, so that no list of keys is kept elsewhere.

class RunConfig(Section):
    uri: Annotated[str, Uri(written=True)] = Field("runs/default", description="run directory")

keys_with(ExperimentConfig, Uri)                 # ("data.uri", "data.uris[].uri", ..., "run.uri")
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic.fields import FieldInfo

from foodseg import storage
from foodseg.config.section import Section


@dataclass(frozen=True)
class Uri:
    """A path or URI that workers use too: they run in other folders, so a relative one is resolved before.

    The key holds one text, or several in a tuple, or in a dict as its values.

    Attributes:
        written: the command writes there, so on a cluster it must outlive the job.
        names, schemes: texts that are not paths: these, and those that begin with one of `schemes`.
        or_name: any text may be a name that is known elsewhere; only what is on the local disk is a path.
    """

    written: bool = False
    names: tuple[str, ...] = ()
    schemes: tuple[str, ...] = ()
    or_name: bool = False

    def resolved(self, value: Any) -> Any:
        """Returns the value of a key (a text, a list, a tuple, a dict) with relative paths absolute; "" and null stay.

        Raises:
            UserError: as `storage.absolute`.
        """
        if isinstance(value, dict):
            return {name: self.resolved(text) for name, text in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.resolved(text) for text in value)
        if not value or value in self.names or value.startswith(self.schemes):
            return value
        if self.or_name and not (storage.is_local(value) and storage.exists(value)):
            return value
        return storage.absolute(value)

    def name(self, value: Any) -> Any:
        """Returns the value of a key with only the last part of each path and URI: what may be published of it."""
        if isinstance(value, list | tuple):
            return type(value)(self.name(text) for text in value)
        if not value or value in self.names or value.startswith(("hf://", *self.schemes)):
            return value
        return storage.without_query(value).rstrip("/").rsplit("/", 1)[-1] or value


@dataclass(frozen=True)
class ExecutionOnly:
    """A section that says where a training runs and lives, not what it learns.

    It may change on resume, is not part of the configuration's hash, and neither sweeps nor variants of an ablation set
    it.
    """


@dataclass(frozen=True)
class MayChangeOnResume:
    """A key that may change when a run, a sweep or an ablation is resumed; a key without this mark may not."""


@dataclass(frozen=True)
class NotSearched:
    """A key that a sweep must not search: where its trials report, and what they are scored on."""


@dataclass(frozen=True)
class SetByAblation:
    """A key that an ablation sets for every run itself, so that no variant may."""


@dataclass(frozen=True)
class NeedsTeacher:
    """The weight of a loss term that compares the student with the averaged weights."""


@dataclass(frozen=True)
class NeedsSoftLabels:
    """The weight of a loss term that compares the student with the soft labels of `distill.teacher`."""


Mark = TypeVar("Mark")
S = TypeVar("S", bound=Section)


def keys_with(section: type[Section], *marks: type[Any], prefix: str = "") -> tuple[str, ...]:
    """Returns the dotted keys below a section that have one of these marks, in the order of the fields.

    The mark of a section holds for all its keys; `data.uris[].uri` is a key of each entry of `data.uris`.
    """
    return tuple(f"{prefix}{key}" for key in _marked(section, marks))


def is_below(key: str, keys: Collection[str]) -> bool:
    """True for a dotted key that is one of `keys`, or is below one that is a section."""
    return any(f"{key}.".startswith(f"{above}.") for above in keys)


def written_uris(config: Section, prefix: str = "") -> dict[str, str]:
    """Returns by key the paths and URIs that a command with this configuration writes; keys without one are left out.

    The keys are those of the section itself and of the sections below it, not of lists, sorted.
    """
    found: dict[str, str] = {}
    for name, field in type(config).model_fields.items():
        value, mark = getattr(config, name), _mark(field, Uri)
        if isinstance(value, Section):
            found |= written_uris(value, f"{prefix}{name}.")
        elif mark is not None and mark.written and value is not None:
            found[f"{prefix}{name}"] = value
    return dict(sorted(found.items()))


def with_absolute(config: S) -> S:
    """Returns a section in which relative paths are absolute; nothing else changes, so nothing is validated again.

    Raises:
        UserError: as `storage.absolute`.
    """
    return _with_uris(config, Uri.resolved)


def without_locations(config: S) -> S:
    """Returns a section in which only the last part of each path and URI is left, for what others will read."""
    return _with_uris(config, Uri.name)


def _with_uris(config: S, change: Callable[[Uri, Any], Any]) -> S:
    changed: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value, mark = getattr(config, name), _mark(field, Uri)
        if mark is not None:
            changed[name] = change(mark, value)
        elif isinstance(value, Section):
            changed[name] = _with_uris(value, change)
        elif isinstance(value, tuple):
            changed[name] = tuple(_with_uris(entry, change) if isinstance(entry, Section) else entry for entry in value)
    return config.model_copy(update=changed)


def with_resolved_uris(config: Section, *, exclude_unset: bool = False) -> dict[str, Any]:
    """Returns a section as plain data, in which relative paths are absolute.

    With `exclude_unset` keys that were not given are left out, but for defaults that are relative paths.

    Raises:
        UserError: as `storage.absolute`.
    """
    tree = config.model_dump(mode="json", exclude_unset=exclude_unset)
    _resolve(config, tree)
    return tree


def _resolve(config: Section, tree: dict[str, Any]) -> None:
    whole = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        value, mark = getattr(config, name), _mark(field, Uri)
        if mark is not None:
            resolved = mark.resolved(whole[name])
            if name in tree or resolved != whole[name]:
                tree[name] = resolved
        elif isinstance(value, Section):
            below = tree.get(name, {})
            _resolve(value, below)
            if below:
                tree[name] = below
        elif isinstance(value, tuple):
            for entry, plain in zip(value, tree.get(name, ()), strict=name in tree):
                if isinstance(entry, Section):
                    _resolve(entry, plain)


def _marked(section: type[Section], marks: tuple[type[Any], ...]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if any(_mark(field, mark) is not None for mark in marks):
            yield name
        elif inner is not None:
            entry, below = inner
            yield from (f"{name}{entry}.{key}" for key in _marked(below, marks))


def _mark(field: FieldInfo, kind: type[Mark]) -> Mark | None:
    return next((mark for mark in field.metadata if isinstance(mark, kind)), None)


def _section_of(annotation: Any) -> tuple[str, type[Section]] | None:
    """Returns the section that a field holds, after "" where it is one (or null), after "[]" where it is many."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return ("[]" if Ellipsis in get_args(annotation) else "", part)
    return None
