"""Reads a configuration: defaults, then a YAML file, then `--set` overrides; remembers where each value came from.

resolved = load_config("jobs/configs/foodmix.yaml", ["optim.lr=3e-4"])
resolved.config.optim.lr, resolved.origins["optim.lr"]
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from foodseg import storage
from foodseg.config.experiment import ExperimentConfig
from foodseg.config.explain import explain, field_path
from foodseg.config.literals import Plain, Typed, Unclear, parsed, plain, read_yaml, type_of, typed, write_yaml
from foodseg.config.marks import ExecutionOnly, keys_with
from foodseg.config.removed import without_removed
from foodseg.config.section import Section
from foodseg.errors import UserError

_RIVALS = {"train.steps": "train.epochs", "train.epochs": "train.steps",
           "data.uri": "data.uris", "data.uris": "data.uri"}  # fmt: skip


@dataclass(frozen=True)
class Resolved:
    """A configuration, and for each dotted key where its value came from: 'default', the file, or '--set'."""

    config: ExperimentConfig
    origins: dict[str, str]


def load_config(path: str | None = None, overrides: Sequence[str] = ()) -> Resolved:
    """Reads the YAML file at `path` (None: defaults only; s3:// works) and applies `section.key=value` overrides.

    Raises:
        UserError: no such file, not YAML, an unknown key (naming the nearest ones), a value out of its range.
    """
    tree = _parse_yaml(storage.read_text(path), path) if path is not None else {}
    origins = dict.fromkeys((key for key, _ in leaves(tree)), path or "")
    _apply(tree, overrides, origins)
    config = parse_config(tree, origins)
    return Resolved(config, {key: origins.get(key, "default") for key, _ in leaves(config.model_dump())})


def with_overrides(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """Returns the configuration with `section.key=value` overrides applied; raises as `load_config`."""
    tree = config.model_dump(mode="json")
    _apply(tree, overrides, {})
    return parse_config(tree)


def with_eval_overrides(config: ExperimentConfig, overrides: Sequence[str]) -> ExperimentConfig:
    """As `with_overrides`, for a trained checkpoint, of which only `eval.*` may still change."""
    for override in overrides:
        if not override.startswith("eval."):
            raise UserError(f"--set {override!r}: only eval.* can be changed here; the rest belongs to the checkpoint")
    return with_overrides(config, overrides)


def read_tree(path: str) -> dict[str, Any]:
    """Reads a YAML file into a nested dict, without looking at its keys: unquoted scalars are still `Plain`.

    Raises:
        UserError: no such file, not YAML, a key that occurs twice.
    """
    return _parse_yaml(storage.read_text(path), path)


def with_values(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of a nested dict with `section.key=value` overrides as `Typed`. UserError: one is malformed."""
    changed = copy.deepcopy(tree)
    _apply(changed, overrides, {})
    return changed


def _apply(tree: dict[str, Any], overrides: Sequence[str], origins: dict[str, str]) -> None:
    """Puts overrides into the tree, and their origins among those of the file."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not all(key.split(".")):
            raise UserError(f"--set {override!r}: expected section.key=value, for example optim.lr=3e-4")
        _put(tree, key, Typed(text))
        origins[key] = "--set"
        # the two keys exclude each other: the later one wins
        rival = _RIVALS.get(key)
        if rival is not None and _typed(Typed(text), type_of(ExperimentConfig, key), key, {}) not in (None, "", []):
            section, _, name = rival.partition(".")
            tree[section].pop(name, None)
            origins.pop(rival, None)


def parse_config(tree: dict[str, Any], origins: Mapping[str, str] | None = None) -> ExperimentConfig:
    """Validates a plain nested dict (from YAML, JSON or a checkpoint); `origins` says where its keys come from.

    Raises:
        UserError: one sentence naming the key, the value and what would be right.
    """
    tree = _typed(without_removed(tree), ExperimentConfig, "", origins or {})
    try:
        return ExperimentConfig.model_validate(tree)
    except ValidationError as error:
        # a wrong member of a list or a union gives several errors about one key
        sentences = {
            field_path(item, ExperimentConfig): _file_of(field_path(item, ExperimentConfig), origins or {})
            + explain(item, tree, ExperimentConfig)
            for item in reversed(error.errors())
        }
        raise UserError(storage.redact("; ".join(list(sentences.values())[::-1][:5]))) from None


def with_settings(config: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """Returns the configuration with dotted keys set to values; raises as `load_config`."""
    tree = config.model_dump(mode="json")
    for key, value in settings.items():
        _put(tree, key, value)
    return parse_config(tree)


def _typed(tree: Any, annotation: Any, key: str, origins: Mapping[str, str]) -> Any:
    try:
        return typed(tree, annotation, key)
    except Unclear as error:
        raise UserError(storage.redact(_file_of(error.key.split("."), origins) + str(error))) from None


def _file_of(path: Sequence[str], origins: Mapping[str, str]) -> str:
    """Returns 'file: ' where one file sets everything that was set at or below the key of an error."""
    key = ".".join(path)
    found = {origin for name, origin in origins.items() if not key or f"{name}.".startswith(f"{key}.")}
    return f"{found.pop()}: " if len(found) == 1 and "--set" not in found else ""


def config_hash(config: ExperimentConfig) -> str:
    """Returns 12 hex digits that name the configuration, but for where it runs (its `ExecutionOnly`)."""
    return section_hash(config, exclude=set(keys_with(ExperimentConfig, ExecutionOnly)))


def section_hash(section: Section, exclude: Set[str] = frozenset()) -> str:
    """Returns 12 hex digits that name settings, but for some of their keys."""
    tree = section.model_dump(mode="json", exclude=set(exclude))
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def to_yaml(config: ExperimentConfig) -> str:
    """Returns the complete configuration as YAML that `load_config` reads back to an equal one."""
    return write_yaml(config.model_dump(mode="json"))


def from_yaml(text: str, where: str) -> ExperimentConfig:
    """Returns the configuration that is written in YAML; `where` is named in errors. Raises as `load_config`."""
    tree = _parse_yaml(text, where)
    return parse_config(tree, dict.fromkeys((key for key, _ in leaves(tree)), where))


def sections(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a tree of a file in which a section without content, `train:`, is an empty one."""
    return {key: {} if isinstance(value, Plain) and plain(value) is None else value for key, value in tree.items()}


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf of a nested dict of sections."""
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        # resources_per_worker is one value, although it is a dict
        if isinstance(value, dict) and dotted != "scaling.resources_per_worker":
            yield from leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _parse_yaml(text: str, path: str) -> dict[str, Any]:
    try:
        tree = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(
            f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or 'cannot be read'})"
        ) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as 'train:', found {type(plain(tree)).__name__}")
    return sections(tree)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if isinstance(inner, Typed):  # an earlier --set gave all of it
            inner = tree[section] = _parsed(inner, section)
        if not isinstance(inner, dict):
            raise UserError(f"--set {key}: {section!r} is a value, not a section")
        tree = inner
    tree[last] = value


def _parsed(value: Typed, key: str) -> Any:
    try:
        return parsed(value, key)
    except Unclear as error:
        raise UserError(storage.redact(str(error))) from None
