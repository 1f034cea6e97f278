"""Says in one sentence what is wrong with a configuration: the key, what would be right, what was found.

explain(error.errors()[0], tree, ExperimentConfig)  # "train.steps: must be a whole number or null, found 'ten'"
"""

import difflib
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError

from foodseg import storage
from foodseg.config.literals import Unclear, typed
from foodseg.config.section import Section
from foodseg.errors import UserError

Whole = TypeVar("Whole", bound=Section)

_ONE = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "null"}
_MANY = {int: "whole numbers", float: "numbers", str: "texts"}
_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most", "multiple_of": "a multiple of"}


def validated(tree: dict[str, Any], whole_config: type[Whole], where: str = "") -> Whole:
    """Returns a plain nested dict as a `whole_config`; `where` names the file in errors.

    Raises:
        UserError: one sentence naming the key (and the nearest known one), the value and what would be right.
    """
    try:
        tree = typed(tree, whole_config)
        return whole_config.model_validate(tree)
    except Unclear as error:
        raise UserError(storage.redact(f"{where}: {error}" if where else str(error))) from None
    except ValidationError as error:
        # a wrong member of a list or a union gives several errors about one key
        sentences = {
            field_path(item, whole_config): explain(item, tree, whole_config) for item in reversed(error.errors())
        }
        sentence = "; ".join(list(sentences.values())[::-1][:5])
        raise UserError(storage.redact(f"{where}: {sentence}" if where else sentence)) from None


def field_path(item: Any, whole_config: type[Section]) -> tuple[str, ...]:
    """Returns the keys down to the field that one of pydantic's errors is about, or to the section."""
    path: list[str] = []
    for part in item["loc"]:
        if path and _section(path, whole_config) is None:
            break  # what follows names members of a union and positions in a list
        path.append(str(part))
    return tuple(path)


def explain(item: Any, tree: dict[str, Any], whole_config: type[Section]) -> str:
    """Returns the sentence for one of pydantic's errors about `tree`, which should have become a `whole_config`."""
    path = field_path(item, whole_config)
    key = ".".join(path)
    inside = item["loc"][len(path) :]
    in_entry = len(inside) == 2 and isinstance(inside[0], int)  # of a list of mappings
    if in_entry:
        key += f"[{inside[0]}].{inside[1]}"
    elif item["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_nearest(path, whole_config)}"
    section = _section(path, whole_config)
    if item["type"] == "missing" and section is None and not inside:
        return f"{key}: must be given: {_wanted(_annotation(path, whole_config))}"
    if item["type"] == "invalid_key":
        where = f"{'.'.join(path[:-1])}: keys" if len(path) > 1 else "names of sections"
        return f"{where} must be text, found {item['input']!r}"
    message = item["msg"].removeprefix("Value error, ")
    found = "null" if item["input"] is None else repr(item["input"])
    if section is not None:
        if item["type"] == "value_error":  # about several keys, which it names
            return message
        keys = ", ".join(list(section.model_fields)[:3])
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
    wanted = _wanted(_annotation(path, whole_config))
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


def _nearest(path: Sequence[str], whole_config: type[Section]) -> str:
    """Names the keys that may have been meant: of the same section first, then of others, then what there is."""
    *above, name = path
    section = _section(above, whole_config)
    assert section is not None
    near = [".".join([*above, key]) for key in difflib.get_close_matches(name, list(section.model_fields))]
    near += [key for key in _all_keys(whole_config) if key.rpartition(".")[2] == name]
    has = f"{'.'.join(above)} has the keys" if above else "sections are"
    return _did_you_mean(near) or f"; {has} {', '.join(section.model_fields)}"


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _all_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of all values below a section."""
    for name in section.model_fields:
        inner = _section([name], section)
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from _all_keys(inner, f"{prefix}{name}.")


def _annotation(path: Sequence[str], whole_config: type[Section]) -> Any:
    """Returns the type of the field at a path of keys."""
    section = _section(path[:-1], whole_config)
    assert section is not None
    return section.model_fields[path[-1]].annotation


def _section(path: Sequence[str], whole_config: type[Section]) -> type[Section] | None:
    """Returns the section at a path of keys; None where it leads to a value, or to nothing."""
    found: Any = whole_config
    for key in path:
        if found is None or key not in found.model_fields:
            return None
        annotation: Any = found.model_fields[key].annotation
        # a section that may be left out is a union with None
        parts = [annotation, *get_args(annotation)] if get_origin(annotation) is not tuple else []
        found = next((part for part in parts if isinstance(part, type) and issubclass(part, Section)), None)
    return found
