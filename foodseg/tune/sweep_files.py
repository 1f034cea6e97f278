"""Reads the files of `foodseg tune` and `foodseg ablate`: their own settings, and the training that all trials share.

plan = read_sweep("jobs/configs/sweep.yaml", ["sweep.trials=8", "config.train.steps=500"])
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from foodseg import storage
from foodseg.config import ExperimentConfig, parse_config
from foodseg.config.explain import validated
from foodseg.config.literals import Unclear, plain, write_yaml
from foodseg.config.load import leaves, read_tree, sections, with_values
from foodseg.config.marks import (
    ExecutionOnly,
    MayChangeOnResume,
    SetByAblation,
    is_below,
    keys_with,
    with_resolved_uris,
)
from foodseg.config.sweep import AblationConfig, AblationFile, SweepConfig, SweepFile
from foodseg.errors import UserError
from foodseg.storage.writer_lock import FILE as IN_USE
from foodseg.tune.space import Space, check_space, configured, parse_space, settings_of_file, space_of_file


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that may start; `given` is its file, complete, as plain data."""

    sweep: SweepConfig
    space: Space
    base: ExperimentConfig
    given: Mapping[str, Any]


@dataclass(frozen=True)
class Variant:
    """One row of an ablation: what it sets, or a folder of label maps, in whose name {seed} and {fold} are replaced."""

    settings: Mapping[str, Any]
    predictions: str | None = None


@dataclass(frozen=True)
class AblationPlan:
    """An ablation that may start. contrasts: by name two variants; the second is subtracted from the first."""

    ablation: AblationConfig
    variants: Mapping[str, Variant]
    contrasts: Mapping[str, tuple[str, str]]
    base: ExperimentConfig
    given: Mapping[str, Any]


def read_sweep(path: str, overrides: Sequence[str]) -> SweepPlan:
    """Reads the file of a sweep with `part.key=value` overrides, and tries its space.

    Raises:
        UserError: no such file, an unknown part or key, a value out of its range, a space that does not fit.
    """
    tree = _parts(path, overrides, ("sweep", "space", "config"))
    sweep = validated({"sweep": tree.get("sweep", {})}, SweepFile, path).sweep
    base = _shared_config(path, tree)
    if base.data.val_split is None:
        raise UserError(f"{path}: config.data.val_split is null, but a sweep chooses by the score on val: name a split")
    given_space = space_of_file(tree.get("space"))
    space = parse_space(given_space)
    check_space(space, base)
    given = {"sweep": sweep.model_dump(mode="json"), "space": given_space, "config": base.model_dump(mode="json")}
    return SweepPlan(sweep, space, base, given)


def read_ablation(path: str, overrides: Sequence[str], subsets: Sequence[str] = ()) -> AblationPlan:
    """Reads the file of an ablation, and tries every variant.

    Args:
        subsets: files of class ids, in addition to those of the file.

    Raises:
        UserError: as `read_sweep`; a contrast of variants that do not exist.
    """
    tree = _parts(path, overrides, ("ablation", "variants", "contrasts", "config"))
    ablation = validated({"ablation": tree.get("ablation", {})}, AblationFile, path).ablation
    found = validated({"ablation": with_resolved_uris(ablation)}, AblationFile, path).ablation
    # ablation.yaml keeps its own folder as it was written
    ablation = found.model_copy(
        update={"uri": ablation.uri, "subsets": (*found.subsets, *map(storage.absolute, subsets))}
    )
    base = _shared_config(path, tree)
    listed = sections(tree["variants"]) if isinstance(tree.get("variants"), dict) else {}
    named = {name: _settings(path, name, given) for name, given in listed.items()}
    variants = {name: _variant(path, name, given) for name, given in named.items()}
    if not variants:
        raise UserError(f"{path}: variants: must name at least one variant, each with the keys that it sets")
    if len({slug(name) for name in variants}) < len(variants):
        raise UserError(
            f"{path}: variants: the names must differ in their letters and digits, found {', '.join(variants)}"
        )
    configs = {}
    for name, variant in variants.items():
        try:
            configs[name] = configured(base, variant.settings)
        except UserError as error:
            raise UserError(f"{path}: variants: {name}: {error}") from None
    _check_folds(path, ablation.folds, base, configs)
    unused = [name for name, variant in variants.items() if "{fold}" in (variant.predictions or "")]
    if unused and ablation.folds is None:
        raise UserError(
            f"{path}: variants: {unused[0]}: predictions: a folder for each {{fold}} needs ablation.folds; without, "
            "only {seed} is replaced"
        )
    contrasts = _contrasts(path, _names(tree.get("contrasts")), list(variants))
    given = {
        "ablation": ablation.model_dump(mode="json"),
        "variants": named,
        "contrasts": {name: list(pair) for name, pair in contrasts.items()},
        "config": base.model_dump(mode="json"),
    }
    return AblationPlan(ablation, variants, contrasts, base, given)


def _check_folds(
    path: str, folds: int | None, base: ExperimentConfig, variants: Mapping[str, ExperimentConfig]
) -> None:
    """Refuses a configuration that contradicts `ablation.folds`, or variants that would be scored on other images."""
    if folds is None:
        return
    if base.data.folds is not None:
        raise UserError(f"{path}: config.data.folds is set for every run by ablation.folds: leave it out")
    for name, config in variants.items():
        if config.data.val_split is not None:
            splits = ", ".join((*config.data.train_splits, config.data.val_split))
            raise UserError(
                f"{path}: config.data.val_split is {config.data.val_split!r}, but with ablation.folds no run is chosen "
                "by validation and every labelled image takes part: set config.data.val_split=null and "
                f"config.data.train_splits=[{splits}]"
            )
        if _images(config) != _images(base):
            raise UserError(
                f"{path}: variants: {name}: with ablation.folds all variants are scored on the images that they are "
                "trained on, so data.uri, the data sets of data.uris and data.train_splits must be those of config"
            )


def _images(config: ExperimentConfig) -> tuple[object, ...]:
    return config.data.uri, tuple(entry.uri for entry in config.data.uris), config.data.train_splits


def begin(uri: str, name: str, given: Mapping[str, Any], resume: bool) -> None:
    """Writes the file of a sweep or an ablation, complete, into its folder; `name`: of the file.

    Raises:
        UserError: the folder is not empty (without `resume`), does not hold one of this kind, or was begun with other
            settings.
    """
    shown, where = storage.redact(uri), storage.join(uri, name)
    not_empty = UserError(f"{shown} is not empty: give --resume to resume it, or name another folder")
    if set(storage.list_names(uri)) - {IN_USE}:
        if not resume:
            raise not_empty
        if not storage.exists(where):
            raise UserError(f"--resume: {shown} holds files but no {name}: name the folder of one that was begun")
        was = _completed(plain(read_tree(where)), where)
        # adding variants does not change the existing ones
        variants = {
            name: variant for name, variant in given.get("variants", {}).items() if name in was.get("variants", {})
        }
        before, now = _flat(was), _flat({**_completed(dict(given), where), "variants": variants})
        gone = [f"the variant {name!r} is gone" for name in was.get("variants", {}) if name not in variants]
        may_change = _keys_that_may_change()
        changed = gone + [
            f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
            for key in {**before, **now}
            if before.get(key) != now.get(key) and not is_below(key, may_change)
        ]
        if changed:
            raise UserError(
                f"--resume: {shown} was begun with other settings: {'; '.join(changed[:3])}; "
                "give the same ones, or another folder to start again"
            )
    data = write_yaml(dict(given)).encode()
    if not storage.create_bytes(where, data):
        if not resume:
            raise not_empty
        storage.write_bytes(where, data)


def _completed(tree: dict[str, Any], where: str) -> dict[str, Any]:
    """Returns the content of a file with the keys that it lacks: one of an earlier version meant their defaults."""
    own: dict[str, type[SweepFile] | type[AblationFile]] = {"sweep": SweepFile, "ablation": AblationFile}
    parts: dict[str, Any] = {
        name: validated({name: tree[name]}, file, where).model_dump(mode="json")[name]
        for name, file in own.items()
        if name in tree
    }
    if "config" in tree:
        parts["config"] = parse_config(tree["config"]).model_dump(mode="json")
    return {**tree, **parts}


def _keys_that_may_change() -> tuple[str, ...]:
    """Returns the keys that may differ when a sweep or an ablation is resumed: its length, where it runs, contrasts."""
    own = (*keys_with(SweepFile, MayChangeOnResume), *keys_with(AblationFile, MayChangeOnResume))
    return (*own, "contrasts", *keys_with(ExperimentConfig, ExecutionOnly, prefix="config."))


def slug(name: str) -> str:
    """Returns the name as part of a path: letters and digits, with hyphens between."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def _parts(path: str, overrides: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    tree = read_tree(path)
    of_config = [override for override in overrides if override.startswith("config.")]
    tree = with_values(tree, [override for override in overrides if override not in of_config])
    if isinstance(tree.get("config", {}), dict):
        tree["config"] = with_values(
            sections(tree.get("config", {})), [override.removeprefix("config.") for override in of_config]
        )
    strange = [key for key in tree if key not in known]
    if strange:
        raise UserError(
            f"{path}: {strange[0]!r} is not a part of such a file; the parts are {', '.join(known)} "
            "(the settings of a training are below config)"
        )
    return tree


def _shared_config(path: str, tree: Mapping[str, Any]) -> ExperimentConfig:
    config = tree["config"]
    if not isinstance(config, dict):
        raise UserError(f"{path}: config: must be sections of a training's configuration, found {plain(config)!r}")
    try:
        return parse_config(config)
    except UserError as error:
        raise UserError(f"{path}: config: {error}") from None


def _settings(path: str, name: str, given: Any) -> Any:
    """Returns what a variant sets, each value in the type of its key."""
    try:
        read = settings_of_file(given)
    except Unclear as error:
        raise UserError(f"{path}: variants: {name}: {error}") from None
    if isinstance(given, dict) and isinstance(given.get("predictions"), str):
        read["predictions"] = str(given["predictions"])
    return read


def _names(tree: Any) -> Any:
    """Returns a tree whose scalars are names, as they are written."""
    if isinstance(tree, dict):
        return {key: _names(value) for key, value in tree.items()}
    return [_names(value) for value in tree] if isinstance(tree, list) else str(tree) if tree else plain(tree)


def _variant(path: str, name: str, given: Any) -> Variant:
    if not isinstance(given or {}, dict):
        raise UserError(f"{path}: variants: {name}: must hold the keys that it sets, such as loss.distill: 0.5")
    settings = {str(key): value for key, value in (given or {}).items()}
    predictions = settings.pop("predictions", None)
    if predictions is not None and (settings or not isinstance(predictions, str)):
        raise UserError(f"{path}: variants: {name}: predictions must be a folder of label maps, and the only key")
    whole = [key for key in settings if "." not in key]
    if whole:
        raise UserError(
            f"{path}: variants: {name}: {whole[0]!r} is not a key of the configuration: write it with its section"
        )
    own = keys_with(ExperimentConfig, ExecutionOnly, SetByAblation)
    fixed = [key for key in settings if is_below(key, own)]
    if fixed:
        raise UserError(
            f"{path}: variants: {name}: {fixed[0]} is set for every run by the ablation itself: leave it out"
        )
    return Variant(settings, storage.absolute(predictions) if predictions else None)


def _contrasts(path: str, given: Any, variants: Sequence[str]) -> dict[str, tuple[str, str]]:
    if not given:
        return {f"{name} - {variants[0]}": (name, variants[0]) for name in variants[1:]}
    if not isinstance(given, dict):
        raise UserError(f"{path}: contrasts: must be names, each with two of the variants, found {given!r}")
    contrasts = {}
    for name, pair in given.items():
        if not (isinstance(pair, list) and len(pair) == 2 and all(variant in variants for variant in pair)):
            raise UserError(
                f"{path}: contrasts: {name}: must be two of the variants, {', '.join(variants)}, found {pair!r}"
            )
        contrasts[str(name)] = (pair[0], pair[1])
    return contrasts


def _flat(tree: Mapping[str, Any]) -> dict[str, Any]:
    return dict(leaves(dict(tree)))
