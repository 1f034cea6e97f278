"""Reads values as text first, and converts them once the type of their key is known.

YAML gives an unquoted word a type by its form: `2024-11-30` is a date, `no` is false, `1e3` a number. A folder may
have any of these names. So files and `--set` are read into trees whose scalars are still text. `typed` converts each
scalar to the type of its key: a text key takes the text unchanged, a number key takes only what looks like a number.

    typed({"run": {"uri": Plain("2024-11-30")}, "train": {"steps": Typed("5")}}, ExperimentConfig)
    # {"run": {"uri": "2024-11-30"}, "train": {"steps": 5}}
"""

import re
import shlex
import types
from collections.abc import Hashable, Sequence
from typing import Any, Literal, Union, get_args, get_origin

# Not a reader of YAML 1.2: Ray reads the same deploy files with PyYAML, as others read the files that we write, and
# there `no`, `1:30` and `1e-05` mean something else. What the versions read differently is quoted, or no number.
import yaml

from foodseg.config.section import Section

_PLAIN = "tag:foodseg,2026:plain"
_MERGE = "tag:yaml.org,2002:merge"
# YAML 1.1 also takes 010 (8), 1:30 (90) and 0x10 (16) for numbers
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9_]*)(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_NULLS = ("null", "~", "Null", "NULL", "")
_LIKE_NULL = ("~", "Null", "NULL", "None")


class Written(str):
    """Text whose meaning depends on the type of its key."""


class Plain(Written):
    """An unquoted scalar of a YAML file."""


class Typed(Written):
    """What follows `key=` on the command line: the text itself for a text key, YAML for all others."""


class Unclear(ValueError):
    """A value whose meaning is not clear; `key` is its dotted key."""

    def __init__(self, key: str, sentence: str) -> None:
        super().__init__(f"{key}: {sentence}" if key else sentence)
        self.key = key


class _Resolver(yaml.SafeLoader):
    """YAML 1.1 reads 3e-4 as text; people who write learning rates mean a number."""


class _Loader(yaml.SafeLoader):
    """Leaves unquoted scalars as `Plain`; names of keys are text; no key occurs twice."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        unquoted = kind is yaml.ScalarNode and implicit[0]
        return _PLAIN if unquoted and tag != _MERGE else tag

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if anchor is not None and node.tag == _PLAIN and not node.value:
            raise yaml.composer.ComposerError(
                problem=f"&{anchor} names a value that is not there; quote a text that begins with &",
                problem_mark=node.start_mark,
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(problem="a key must be text", problem_mark=key.start_mark)
            if key.value in seen and key.tag != _MERGE:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} occurs here a second time", problem_mark=key.start_mark
                )
            seen.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}


_Loader.add_constructor(_PLAIN, lambda loader, node: Plain(node.value))


class _Dumper(yaml.SafeDumper):
    """Quotes what any reader of YAML could take for a number."""


for _class in (_Resolver, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
    )


def read_yaml(text: str) -> Any:
    """Returns a YAML document with its unquoted scalars as `Plain`; None where it is empty. yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)  # a SafeLoader


def write_yaml(tree: Any) -> str:
    """Returns a plain tree as YAML that `plain(read_yaml(...))` and every other reader give back."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def plain(value: Any) -> Any:
    """Returns a tree in which scalars have the type that YAML gives them by their looks, for keys of no known type."""
    if isinstance(value, Typed):
        value = parsed(value)
    if isinstance(value, Plain):
        return _by_looks(value)
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def parsed(value: Typed, key: str = "") -> Any:
    """Returns what follows `key=`, read as YAML, with its scalars as `Plain`.

    Raises:
        Unclear: it is not YAML, or a part of it would be dropped: a comment.
    """
    loader = _Loader(str(value))
    try:
        node = loader.get_single_node()
        tree = Plain("") if node is None else loader.construct_document(node)
    except yaml.YAMLError:
        raise Unclear(
            key, f"found {str(value)!r}, which is not valid YAML: write numbers as 3e-4, lists as [a, b] with quotes "
            "around what has blanks or punctuation, mappings as {a: 1}"
        ) from None  # fmt: skip
    finally:
        loader.dispose()
    around = str(value) if node is None else value[: node.start_mark.index] + value[node.end_mark.index :]
    if around.strip():
        raise Unclear(key, f"found {str(value)!r}, of which {around.strip()!r} would be lost: leave it out")
    return tree


def typed(value: Any, annotation: Any, key: str = "") -> Any:
    """Returns a tree in which every `Written` has the type of its key, or is left for the validation to refuse.

    Args:
        annotation: type of `value`: a `Section`, or that of one of its fields.
        key: dotted path of `value`, for errors.

    Raises:
        Unclear: a text whose meaning is not clear.
    """
    parts = _parts(annotation)
    optional = type(None) in parts
    if isinstance(value, Written) and _is_text(parts):
        return _text(value, optional, key)
    if isinstance(value, Typed):
        value = parsed(value, key)
    if isinstance(value, Plain):
        return _scalar(value, parts, key)
    if isinstance(value, dict):
        return {name: typed(inner, type_of(annotation, name), _below(key, name)) for name, inner in value.items()}
    if isinstance(value, list):
        of = next((get_args(part) for part in parts if get_origin(part) is tuple), ())
        every = of[:1] if not of or of[-1] is Ellipsis or len(of) != len(value) else of
        kinds: Sequence[Any] = every if len(every) == len(value) else (every or (Any,))[:1] * len(value)
        return [typed(inner, kind, key) for inner, kind in zip(value, kinds, strict=True)]
    return value


def type_of(annotation: Any, dotted: str) -> Any:
    """Returns the type of a key below a section or a mapping; Any where there is no such key."""
    name, _, rest = dotted.partition(".")
    found: Any = Any
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, Section) and name in part.model_fields:
            found = part.model_fields[name].annotation
        elif get_origin(part) is dict:
            found = get_args(part)[1]
    return type_of(found, rest) if rest else found


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else str(name)


def _parts(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def _is_text(parts: Sequence[Any]) -> bool:
    wanted = [part for part in parts if part is not type(None)]
    return all(
        part is str or (get_origin(part) is Literal and all(isinstance(word, str) for word in get_args(part)))
        for part in wanted
    )


def _text(value: Written, optional: bool, key: str) -> str | None:
    text = str(value)
    if isinstance(value, Plain):
        if not text or (optional and text in _NULLS):
            return None
        like_null: tuple[str, ...] = ("None",)
    else:
        if optional and text == "null":
            return None
        like_null = _LIKE_NULL
        inside = _inside_quotes(text)
        if inside is not None:
            raise Unclear(
                key, f"found {text}: what follows = is taken as it is, quotes included; leave them out: "
                f"--set {shlex.quote(f'{key}={inside}')}"
            )  # fmt: skip
    if optional and text in like_null:
        raise Unclear(key, f"found {text}: write null for no value, or ./{text} for a file of that name")
    return text


def _inside_quotes(text: str) -> str | None:
    """Returns what a text in quotes would be in YAML; None where it is not in quotes as a whole."""
    if len(text) < 2 or text[0] not in "'\"" or text[-1] != text[0]:
        return None
    try:
        inside = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return inside if isinstance(inside, str) else None


def _scalar(value: Plain, parts: Sequence[Any], key: str) -> Any:
    """Returns a scalar for a key that takes no text."""
    text, looks = str(value), _by_looks(value)
    if looks is None or (isinstance(looks, bool) and bool in parts):
        return looks
    if not {int, float}.isdisjoint(parts):
        if isinstance(looks, int | float) and not isinstance(looks, bool):
            if _NUMBER.fullmatch(text) or _ENDLESS.fullmatch(text):
                return looks
            raise Unclear(key, f"found {text}, which YAML takes for {looks}: write the number in decimal digits")
        return text
    return looks if isinstance(looks, bool | int | float) else text


def _by_looks(value: Plain) -> Any:
    loader = _Resolver("")
    try:
        tag = loader.resolve(yaml.ScalarNode, str(value), (True, False))
        return loader.construct_object(yaml.ScalarNode(tag, str(value)))
    except (ValueError, yaml.YAMLError):  # a date such as 2024-13-45
        return str(value)
    finally:
        loader.dispose()
