"""Says in one sentence what is wrong with a configuration: the key, what would be right, what was found.

explain(error.errors()[0], tree, ExperimentConfig)  # "train.steps: must be a whole number or null, found 'ten'"
"""

import difflib
import types
from typing import Any, Literal, Union, get_args, get_origin

from foodseg.config.section import Section

_ONE = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}


def explain(item: Any, tree: dict[str, Any], whole_config: type[Section]) -> str:
    """Returns the sentence for one of pydantic's errors about `tree`, which should have become a `whole_config`."""
    path = [str(part) for part in item["loc"][:2]]  # what follows names members of a union and places in a list
    key = ".".join(path)
    in_entry = len(item["loc"]) == 4 and isinstance(item["loc"][2], int)  # of a list of mappings
    if in_entry:
        key += f"[{item['loc'][2]}].{item['loc'][3]}"
    elif item["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(path, whole_config)}"
    if item["type"] == "missing" and len(item["loc"]) == 2:
        return f"{key}: must be given: {_wanted(_fields(whole_config, path[0])[path[1]].annotation)}"
    if item["type"] == "invalid_key":
        return f"{f'{path[0]}: keys' if len(path) > 1 else 'names of sections'} must be text, found {item['input']!r}"
    message = item["msg"].removeprefix("Value error, ")
    found = "null" if item["input"] is None else repr(item["input"])
    if len(path) < 2:
        if item["type"] == "value_error":  # about several keys, which it names
            return message
        keys = ", ".join(list(_fields(whole_config, key))[:3])
        return f"{key}: must be a section with keys such as {keys}, found {found}"
    if item["type"] == "value_error":
        return f"{key}: {message}" + ("" if "found" in message else f", found {found}")
    for bound, words in _BOUNDS.items():
        if bound in item.get("ctx", {}):
            return f"{key}: must be {words} {item['ctx'][bound]:g}, found {found}"
    if item["type"] == "finite_number":
        return f"{key}: must be a finite number, found {found}"
    key = ".".join(path)
    whole = tree[path[0]][path[1]]  # `found` may be one member of it
    if whole in ([], ()):
        return f"{key}: must not be empty, found []"
    wanted = _wanted(_fields(whole_config, path[0])[path[1]].annotation)
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
        return f"a list of {_members(inner)}"
    if origin is dict:
        return f"a mapping from names to {_MANY[inner[1]]}"
    return _ONE[annotation]


def _members(inner: tuple[Any, ...]) -> str:
    """Says in words what a list of these types holds."""
    count = "" if inner[-1] is Ellipsis else f"{len(inner)} "
    if get_origin(inner[0]) is tuple:
        return f"{count}lists of {_members(get_args(inner[0]))}"
    return f"{count}{_MANY[inner[0]]}"


def _nearest(path: list[str], whole_config: type[Section]) -> str:
    """Names the keys that may have been meant: of the same section first, then of others, then what there is."""
    fields = {section: _fields(whole_config, section) for section in whole_config.model_fields}
    everywhere = [(section, name) for section, names in fields.items() for name in names]
    if len(path) == 1:
        near = difflib.get_close_matches(path[0], fields)
        near += [f"{section}.{name}" for section, name in everywhere if name == path[0]]
        return _did_you_mean(near) or f"; sections are {', '.join(fields)}"
    near = [f"{path[0]}.{name}" for name in difflib.get_close_matches(path[1], fields[path[0]])]
    near += [f"{section}.{name}" for section, name in everywhere if name == path[1]]
    return _did_you_mean(near) or f"; {path[0]} has the keys {', '.join(fields[path[0]])}"


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _fields(whole_config: type[Section], section: str) -> Any:
    annotation: Any = whole_config.model_fields[section].annotation
    # a section that may be left out is a union with None
    return next((part for part in get_args(annotation) if part is not type(None)), annotation).model_fields
