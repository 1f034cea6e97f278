"""Files for `foodseg tune` and `foodseg ablate`, made from the variants' settings, and their runs.

tree = {"sweep": {...}, "space": {...}, "config": small_recipe(bench, 128, "train.steps=120")}
answer = run_or_resume(bench, "tune", "sweep-asha", tree, folder / "sweep.yaml")
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from experiments.foodmix import prepared_foodmix, weights
from experiments.foodmix_runs import RECIPE
from experiments.item_queue import ROOT, Bench
from experiments.variants import Settings
from foodseg.config import load_config


def run_or_resume(
    bench: Bench, verb: str, name: str, tree: Mapping[str, Any], begun: Path, *words: object
) -> dict[str, Any]:
    """Runs `foodseg tune` or `foodseg ablate` on a file of this content, or resumes it; returns its answer.

    begun: the file that is there once it has started.
    """
    path = bench.work / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(tree), sort_keys=False), encoding="utf-8")
    return bench.foodseg(verb, "--config", path, *(["--resume"] if begun.exists() else []), *words)


def small_recipe(bench: Bench, side: int, *settings: str) -> dict[str, Any]:
    """The peer's recipe at `side` pixels with data, backbone weights and other settings, one process a run."""
    where = (f"data.uri={prepared_foodmix(bench)}", f"model.weights={weights(bench)}", "scaling.num_workers=0")
    small = (f"augment.longest_side={side}", f"augment.crop={side}", f"eval.longest_side={side}")
    return load_config(str(ROOT / RECIPE), [*where, *settings, *small]).config.model_dump(mode="json")


def settings_of(words: Settings, tables: Mapping[str, str]) -> dict[str, Any]:
    """Returns the settings of a variant, which are `key=value` words, as a mapping."""
    given = (word.format(**tables) if "{" in word else word for word in words)
    return {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in given)}
