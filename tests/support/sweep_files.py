"""The file of a tiny sweep or ablation over synthetic meals.

path = write_sweep(tmp_path / "sweep.yaml", data, tmp_path / "sweep", space={...}, sweep={"trials": 2})
"""

from pathlib import Path
from typing import Any

import yaml

from tests.support.synthetic_set import synthetic_config


def shared_config(data: str, *overrides: str) -> dict[str, Any]:
    """What all trials share: 12 updates, validated every 4; student weights, which learn faster than their average."""
    settings = ("train.steps=12", "train.validate_every=4", "eval.weights=student", "train.ema_horizon=0")
    return synthetic_config(data, "unused", *settings, *overrides).model_dump(mode="json")


def write_sweep(
    path: Path, data: str, uri: str | Path, *, space: Any, sweep: dict[str, Any], overrides: list[str] | None = None
) -> str:
    """Writes a sweep's file; returns its path."""
    tree = {
        "sweep": {"uri": str(uri), **sweep},
        "space": space,
        "config": shared_config(data, *(overrides or [])),
    }
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return str(path)


def write_ablation(
    path: Path,
    data: str,
    uri: str | Path,
    *,
    variants: Any,
    ablation: dict[str, Any],
    overrides: list[str] | None = None,
) -> str:
    """Writes an ablation's file; returns its path."""
    tree = {
        "ablation": {"uri": str(uri), **ablation},
        "variants": variants,
        "config": shared_config(data, *(overrides or [])),
    }
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return str(path)
