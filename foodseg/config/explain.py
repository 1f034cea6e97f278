"""Says in one sentence what is wrong with a configuration: the key, what would be right, what was found.

explain(error.errors()[0], tree)  # "train.steps: must be a whole number or null, found 'ten'"
"""

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from foodseg.config.experiment import ExperimentConfig
from foodseg.config.section import Section

_ONE = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}


def place(item: Any) -> tuple[str, ...]:
    """Returns the keys down to the field that one of pydantic's errors is about, or to the section."""
    path: list[str] = []
    for part in item["loc"]:
        if path and not _is_section(path):
            break  # what follows names members of a union and places in a list
        path.append(str(part))
    return tuple(path)


def explain(item: Any, tree: dict[str, Any]) -> str:
    """Returns the sentence for one of pydantic's errors about `tree`."""
    path = place(item)
    key = ".".join(path)
    inside = item["loc"][len(path) :]
    in_entry = len(inside) == 2 and isinstance(inside[0], int)  # of a list of mappings
    if in_entry:
        key += f"[{inside[0]}].{inside[1]}"
    elif item["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(path)}"
    if item["type"] == "invalid_key":
        where = f"{'.'.join(path[:-1])}: keys" if len(path) > 1 else "names of sections"
        return f"{where} must be text, found {item['input']!r}"
    message = item["msg"].removeprefix("Value error, ")
    found = "null" if item["input"] is None else repr(item["input"])
    if not path or _is_section(path):
        if item["type"] == "value_error":  # about several keys, which it names
            return message
        keys = ", ".join(list(_section(path).model_fields)[:3])
        return f"{key}: must be a section with keys such as {keys}, found {found}"
    if item["type"] == "value_error":
        return f"{key}: {message}" + ("" if "found" in message else f", found {found}")
    for bound, words in _BOUNDS.items():
        if bound in item.get("ctx", {}):
            return f"{key}: must be {words} {item['ctx'][bound]:g}, found {found}"
    if item["type"] == "finite_number":
        return f"{key}: must be a finite number, found {found}"
    key = ".".join(path)
    whole: Any = tree  # `found` may be one member of it
    for part in path:
        whole = whole[part]
    if whole in ([], ()):
        return f"{key}: must not be empty, found []"
    wanted = _wanted(_section(path[:-1]).model_fields[path[-1]].annotation)
    return f"{key}: must be {wanted}, found {'null' if whole is None else repr(whole)}"


def _wanted(annotation: Any) -> str:
    """Says in words what a type takes."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(part) for part in inner)
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin is tuple:
        if issubclass(inner[0], Section):
            return f"a list of mappings with the keys {', '.join(inner[0].model_fields)}"
        count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        return f"a list of {count}{_MANY[inner[0]]}"
    if origin is dict:
        return f"a mapping from names to {_MANY[inner[1]]}"
    return _ONE[annotation]


def _nearest(path: Sequence[str]) -> str:
    """Names the keys that may have been meant: of the same section first, then of others, then what there is."""
    *section, name = path
    keys = list(_section(section).model_fields)
    near = [".".join([*section, key]) for key in difflib.get_close_matches(name, keys)]
    near += [key for key in _all_keys(ExperimentConfig) if key.rpartition(".")[2] == name]
    has = f"{'.'.join(section)} has the keys" if section else "sections are"
    return _did_you_mean(near) or f"; {has} {', '.join(keys)}"


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _all_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys below a section; sections themselves are none."""
    for name, info in section.model_fields.items():
        annotation: Any = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from _all_keys(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _section(path: Sequence[str]) -> type[Section]:
    """Returns the section at a path of keys that all name sections."""
    found: Any = ExperimentConfig
    for key in path:
        found = found.model_fields[key].annotation
    return found


def _is_section(path: Sequence[str]) -> bool:
    """True where a path leads to a section; what is no key at all is none."""
    found: Any = ExperimentConfig
    for key in path:
        if not (isinstance(found, type) and issubclass(found, Section)) or key not in found.model_fields:
            return False
        found = found.model_fields[key].annotation
    return isinstance(found, type) and issubclass(found, Section)
