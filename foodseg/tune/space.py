"""The search space of a sweep: which keys of the configuration take which values.

    space = parse_space({"loss.distill": {"uniform": [0.1, 1]}, "fusion": {"options": {"none": {}, "film": {...}}}})
    check_space(space, base)                       # every value must make a valid configuration, before anything starts
    values = space.draw(RandomSource(np.random.default_rng(0)))
    config = configured(base, space.settings(values))

A hyperparameter is a dotted key of the configuration, or a name of its own whose options set several keys at once.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from foodseg.config import ExperimentConfig
from foodseg.config.literals import Unclear, plain, type_of, typed
from foodseg.config.load import leaves, with_settings
from foodseg.config.marks import ExecutionOnly, NotSearched, is_below, keys_with
from foodseg.errors import UserError

Values = dict[str, str | float]  # by the name of a hyperparameter: a label of its choices, or a number
Kind = Literal["choice", "options", "uniform", "loguniform", "int"]
KINDS: tuple[Kind, ...] = ("choice", "options", "uniform", "loguniform", "int")
RESERVED = ("trial", "number", "status", "reason", "miou", "share", "seconds", "front", "curve_step", "curve_miou",
            "parameters", "latency")  # fmt: skip
CHECKED = 400  # combinations that are tried before a sweep starts; a random part of a larger space
INSIDE = 50  # random draws that are tried too: a range may be valid at its ends only


class Source(Protocol):
    """Chooses values: the three methods of Optuna's `Trial` that a space needs."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


@dataclass(frozen=True)
class RandomSource:
    """Independent draws."""

    rng: np.random.Generator

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        return choices[int(self.rng.integers(len(choices)))]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        if log:
            return float(min(high, max(low, math.exp(self.rng.uniform(math.log(low), math.log(high))))))
        return float(self.rng.uniform(low, high))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))


@dataclass(frozen=True)
class Hyperparameter:
    """One thing that is searched.

    choices: by label the settings (dotted key -> value) of each choice; empty for numbers.
    low, high: the range of a number, both ends included.
    when: labels of other hyperparameters, of which one must be chosen for this hyperparameter to be used; empty =
        always.
    """

    name: str
    kind: Kind
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    low: float = 0.0
    high: float = 0.0
    when: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def used(self, values: Values) -> bool:
        """Whether the hyperparameters that it depends on have the values of `when`."""
        return all(values.get(other) in labels for other, labels in self.when.items())

    def settings(self, value: str | float) -> dict[str, Any]:
        """Returns what a value sets: dotted key -> value."""
        return dict(self.choices[str(value)]) if self.choices else {self.name: value}


@dataclass(frozen=True)
class Space:
    """The hyperparameters in the order of the file; one that depends on another comes after it."""

    hyperparameters: tuple[Hyperparameter, ...]

    def draw(self, source: Source) -> Values:
        """Returns a value for every hyperparameter that is used."""
        values: Values = {}
        for param in self.hyperparameters:
            if not param.used(values):
                continue
            if param.choices:
                values[param.name] = source.suggest_categorical(param.name, list(param.choices))
            elif param.kind == "int":
                values[param.name] = source.suggest_int(param.name, int(param.low), int(param.high))
            else:
                log = param.kind == "loguniform"
                values[param.name] = source.suggest_float(param.name, param.low, param.high, log=log)
        return values

    def settings(self, values: Values) -> dict[str, Any]:
        """Returns what the values set: dotted key -> value."""
        return {key: value for param in self.hyperparameters if param.name in values
                for key, value in param.settings(values[param.name]).items()}  # fmt: skip

    def grid(self) -> Iterator[Values]:
        """Yields every combination, each once.

        Raises:
            UserError: a hyperparameter is a range of numbers, which has no end.
        """
        endless = [param.name for param in self.hyperparameters if param.kind in ("uniform", "loguniform")]
        if endless:
            raise UserError(f"space: {endless[0]}: sweep.searcher = grid needs choices, options or int, not a range")
        return _combinations(self.hyperparameters, lambda param: list(range(int(param.low), int(param.high) + 1)))


def space_of_file(tree: Any) -> Any:
    """Returns the part `space` of a file with every value in the type of the key that it is for.

    Raises:
        UserError: a value is ambiguous.
    """
    if not isinstance(tree, dict):
        return plain(tree)
    try:
        return {name: _hyperparameter_of_file(name, given) for name, given in tree.items()}
    except Unclear as error:
        raise UserError(f"space: {error}") from None


def _hyperparameter_of_file(name: str, given: Any) -> Any:
    if not isinstance(given, dict):
        return plain(given)
    read = {kind: plain(content) for kind, content in given.items()}
    if isinstance(given.get("choice"), list):
        read["choice"] = [settings_of_file({name: value})[name] for value in given["choice"]]
    if isinstance(given.get("options"), dict):
        read["options"] = {label: settings_of_file(settings) for label, settings in given["options"].items()}
    if isinstance(given.get("when"), dict):
        read["when"] = {other: _labels_of_file(other, labels) for other, labels in given["when"].items()}
    return read


def _labels_of_file(other: str, labels: Any) -> Any:
    if "." in other:
        wanted = labels if isinstance(labels, list) else [labels]
        read = [settings_of_file({other: label})[other] for label in wanted]
        return read if isinstance(labels, list) else read[0]
    return [str(label) for label in labels] if isinstance(labels, list) else str(labels)  # names of options


def settings_of_file(settings: Any) -> Any:
    """Returns dotted keys of the configuration and their values, each in the type of its key. Unclear."""
    if not isinstance(settings, dict):
        return plain(settings)
    return {key: typed(value, type_of(ExperimentConfig, key), key) for key, value in settings.items()}


def parse_space(tree: Any) -> Space:
    """Reads the part `space` of a sweep's file.

    Raises:
        UserError: no hyperparameters, a hyperparameter of an unknown kind, a wrong range, `when` of a hyperparameter
            that is not listed before it.
    """
    if not isinstance(tree, dict) or not tree:
        raise UserError("space: must name what is searched, for example loss.distill: {uniform: [0.1, 1.0]}")
    hyperparameters: list[Hyperparameter] = []
    setter: dict[str, str] = {}
    for name, given in tree.items():
        param = _hyperparameter(str(name), given, {param.name: param for param in hyperparameters})
        for key in {key for settings in param.choices.values() for key in settings} or {param.name}:
            if setter.setdefault(key, param.name) != param.name:
                raise UserError(f"space: {param.name} and {setter[key]} both set {key}: leave it out of one of them")
        hyperparameters.append(param)
    return Space(tuple(hyperparameters))


def configured(base: ExperimentConfig, settings: Mapping[str, Any]) -> ExperimentConfig:
    """Returns the configuration with dotted keys set. UserError: as `load_config`."""
    return with_settings(base, settings)


def corners(space: Space) -> list[Values]:
    """Returns all combinations of choices and ends of ranges; if there are more than CHECKED, a random part."""
    combinations = list(itertools.islice(_combinations(space.hyperparameters, _ends), CHECKED + 1))
    if len(combinations) > CHECKED:
        source = _Ends(np.random.default_rng(0))
        combinations = [space.draw(source) for _ in range(CHECKED)]
    return combinations


def check_space(space: Space, base: ExperimentConfig) -> None:
    """Tries every key, every combination of the choices and of the ends of the ranges, and draws from within.

    If there are more than CHECKED combinations, a random part of them is tried.

    Raises:
        UserError: one of them is not a valid configuration (it is named); a key does not exist (the nearest is named).
    """
    _check_keys(space, base)
    within = RandomSource(np.random.default_rng(0))
    for values in [*corners(space), *(space.draw(within) for _ in range(INSIDE))]:
        try:
            configured(base, space.settings(values))
        except UserError as error:
            shown = ", ".join(f"{name} = {value}" for name, value in values.items())
            raise UserError(f"space: {error} (tried with {shown})") from None


def _check_keys(space: Space, base: ExperimentConfig) -> None:
    """Raises UserError for a key that does not exist, also where no combination that is tried sets it."""
    known = dict(leaves(base.model_dump(mode="json")))
    for param in space.hyperparameters:
        for settings in param.choices.values() if param.choices else [{param.name: param.low}]:
            for key, value in settings.items():
                if key not in known:
                    try:
                        configured(base, {key: value})
                    except UserError as error:
                        raise UserError(f"space: {param.name}: {error}") from None


class _Ends(RandomSource):
    """A random source that draws only the ends of ranges."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return (low, high)[int(self.rng.integers(2))]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return (low, high)[int(self.rng.integers(2))]


def _ends(param: Hyperparameter) -> list[Any]:
    ends = [param.low, param.high] if param.kind != "int" else [int(param.low), int(param.high)]
    return ends[: 1 if ends[0] == ends[1] else 2]


def _combinations(
    hyperparameters: Sequence[Hyperparameter],
    numbers: Callable[[Hyperparameter], list[Any]],
    chosen: Values | None = None,
) -> Iterator[Values]:
    """Yields every combination of labels, and of what `numbers` gives for a hyperparameter of numbers."""
    values = chosen or {}
    if not hyperparameters:
        yield values
        return
    param, *rest = hyperparameters
    if not param.used(values):
        yield from _combinations(rest, numbers, values)
        return
    for value in list(param.choices) or numbers(param):
        yield from _combinations(rest, numbers, {**values, param.name: value})


def _hyperparameter(name: str, given: Any, before: Mapping[str, Hyperparameter]) -> Hyperparameter:
    known = ", ".join(KINDS)
    kinds = [key for key in given if key != "when"] if isinstance(given, dict) else []
    if len(kinds) != 1 or kinds[0] not in KINDS:
        found = f"found {', '.join(map(repr, kinds)) or repr(given)}"
        raise UserError(f"space: {name}: give one of {known} (and perhaps when), {found}")
    kind, content = kinds[0], given[kinds[0]]
    when = _when(name, given.get("when", {}), before)
    if kind == "options":
        if "." in name:
            raise UserError(f"space: {name}: options need a name without a dot; they set several keys at once")
        if not (isinstance(content, dict) and content and all(isinstance(s or {}, dict) for s in content.values())):
            raise UserError(f"space: {name}: options must be names, each with the keys that it sets, found {content!r}")
        choices = {
            str(label): {str(key): value for key, value in (settings or {}).items()}
            for label, settings in content.items()
        }
        whole = [key for settings in choices.values() for key in settings if "." not in key]
        if whole:
            raise UserError(f"space: {name}: {whole[0]!r} is not a key of the configuration: write it with its section")
        if name in RESERVED:
            raise UserError(f"space: {name} is a column of trials.parquet: give the hyperparameter another name")
        _refuse_fixed(name, [key for settings in choices.values() for key in settings])
        return Hyperparameter(name, kind, choices, when=when)
    if "." not in name:
        raise UserError(f"space: {name}: must be a key of the configuration, such as loss.distill, or have options")
    _refuse_fixed(name, [name])
    if kind == "choice":
        if not (isinstance(content, list) and content):
            raise UserError(f"space: {name}: choice must be a list of values, found {content!r}")
        try:
            return Hyperparameter(name, kind, {json.dumps(value): {name: value} for value in content}, when=when)
        except TypeError:
            raise UserError(f"space: {name}: choice must be of numbers, texts and lists, found {content!r}") from None
    numbers = (int,) if kind == "int" else (int, float)
    if not (
        isinstance(content, list) and len(content) == 2
        and all(isinstance(end, numbers) and not isinstance(end, bool) and math.isfinite(end) for end in content)
        and content[0] <= content[1] and (kind != "loguniform" or content[0] > 0)
    ):  # fmt: skip
        of = {"int": "whole numbers", "uniform": "numbers", "loguniform": "numbers above 0"}[kind]
        raise UserError(f"space: {name}: {kind} must be two {of}, the lower one first, found {content!r}")
    return Hyperparameter(name, kind, low=float(content[0]), high=float(content[1]), when=when)


def _when(name: str, given: Any, before: Mapping[str, Hyperparameter]) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, dict):
        raise UserError(f"space: {name}: when must name another hyperparameter and its values, found {given!r}")
    when = {}
    for other, wanted in given.items():
        if other not in before or not before[other].choices:
            choosing = [param.name for param in before.values() if param.choices]
            raise UserError(
                f"space: {name}: when: {other!r} is not a hyperparameter with choices that is listed before it "
                f"(there {'are ' + ', '.join(choosing) if choosing else 'is none'})"
            )
        param = before[other]
        wanted = wanted if isinstance(wanted, list) else [wanted]
        labels = [str(value) if param.kind == "options" else json.dumps(value) for value in wanted]
        strange = [label for label in labels if label not in param.choices]
        if strange or not labels:
            raise UserError(
                f"space: {name}: when: {other} is never {(strange or ['nothing'])[0]}; "
                f"it may be {', '.join(param.choices)}"
            )
        when[other] = tuple(labels)
    return when


def _refuse_fixed(name: str, keys: Sequence[str]) -> None:
    fixed = keys_with(ExperimentConfig, ExecutionOnly, NotSearched)
    for key in keys:
        if is_below(key, fixed):
            raise UserError(
                f"space: {name}: {key} cannot be searched: all trials are scored on the same images, and where they "
                "run is set by config.scaling and sweep.uri"
            )
