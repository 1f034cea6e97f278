"""Reads a configuration: defaults, then a YAML file, then `--set` overrides; remembers where each value came from.

    resolved = load_config("jobs/configs/foodmix.yaml", ["optim.lr=3e-4"])
    resolved.config.optim.lr, resolved.origins["optim.lr"]
"""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from foodseg import storage
from foodseg.config.experiment import ExperimentConfig
from foodseg.config.section import Section
from foodseg.errors import UserError


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 3e-4 as text; people who write learning rates mean a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


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
    tree: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if path is not None:
        tree = _parse_yaml(storage.read_text(path), path)
        origins.update(dict.fromkeys((key for key, _ in leaves(tree)), path))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise UserError(f"--set {override!r}: expected section.key=value, for example optim.lr=3e-4")
        value = _parse_scalar(text, override)
        # train.steps and train.epochs exclude each other: the later word stands
        for rival in {"train.steps": ["train.epochs"], "train.epochs": ["train.steps"]}.get(key, []):
            if value is not None:
                _put(tree, rival, None)
                origins.pop(rival, None)
        _put(tree, key, value)
        origins[key] = "--set"
    config = parse_config(tree)
    known = [key for key, _ in leaves(config.model_dump())]
    return Resolved(config, {key: _origin(key, origins) for key in known})


def parse_config(tree: dict[str, Any]) -> ExperimentConfig:
    """Validates a plain nested dict (from YAML, JSON or a checkpoint).

    Raises:
        UserError: one sentence naming the key, the value and what would be right.
    """
    try:
        return ExperimentConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_explain(item) for item in error.errors()[:5])) from None


def config_hash(config: ExperimentConfig) -> str:
    """Returns 12 hex digits that name the configuration, but for where it runs (`run`, `scaling`)."""
    tree = config.model_dump(mode="json", exclude={"run", "scaling"})
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def to_yaml(config: ExperimentConfig) -> str:
    """Returns the complete configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=120)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) of every leaf of a nested dict of sections."""
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        # resources_per_worker is one value, although it is a dict
        if isinstance(value, dict) and not prefix:
            yield from leaves(value, f"{dotted}.")
        else:
            yield dotted, value


def _parse_yaml(text: str, path: str) -> dict[str, Any]:
    try:
        tree = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', None) or 'cannot be read'})") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as 'train:', found {type(tree).__name__}")
    for key, value in tree.items():
        if value is None:
            tree[key] = {}
    return tree


def _parse_scalar(text: str, override: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        raise UserError(f"--set {override!r}: the value is not valid YAML; quote it, for example 'data.uri=\"s3://b/p\"'") from None


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {key}: {section!r} is a value, not a section")
        tree = inner
    tree[last] = value


def _origin(key: str, origins: dict[str, str]) -> str:
    return origins.get(key, "default")


def _explain(item: Any) -> str:
    location = [str(part) for part in item["loc"] if not isinstance(part, int)]
    # a union such as int | [min, max] names its members in the location: they are no keys
    location = [part for part in location if part.replace("_", "").isalnum()]
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _all_keys(), n=3, cutoff=0.4) or difflib.get_close_matches(
            location[-1], [k.split(".")[-1] for k in _all_keys()], n=3
        )
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; sections are {', '.join(_sections())}"
        return f"unknown key {key!r}{hint}"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error" and (not location or len(location) == 1):
        return message
    return f"{key}: {message[0].lower() + message[1:]}, found {item['input']!r}"


def _sections() -> list[str]:
    return list(ExperimentConfig.model_fields)


def _all_keys() -> list[str]:
    keys = _sections()
    for name, field in ExperimentConfig.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, Section)
        keys += [f"{name}.{key}" for key in section.model_fields]
    return keys
