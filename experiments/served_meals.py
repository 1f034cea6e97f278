"""What the endpoints of the experiments serve and are shown: deploy files, a broken checkpoint, real meals."""

import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.foodmix import foodmix, stems
from experiments.item_queue import ROOT, Bench, ItemError
from foodseg.checkpoint.find import resolve_checkpoint
from tests.support.tiny_checkpoints import free_port


def mobile_sam(bench: Bench) -> Path:
    """Returns the published weights of MobileSAM."""
    weights = bench.shared / "weights" / "mobile_sam.safetensors"
    if not weights.exists():
        raise ItemError(f"shared data missing: {weights}; set FOODSEG_SHARED")
    return weights


def deploy_tree(bench: Bench, model: Path, port: int | None = None) -> dict[str, Any]:
    """Returns serve_configs/local.yaml with this run as `meals`, MobileSAM, and a port that is free."""
    tree = yaml.safe_load((ROOT / "serve_configs" / "local.yaml").read_text(encoding="utf-8"))
    tree["http_options"]["port"] = port or free_port()
    args = tree["applications"][0]["args"]
    args["segmenter"]["models"] = {"meals": str(model)}
    args["sam"] = {"weights": str(mobile_sam(bench)), "points_per_side": 8}
    return tree


def deployment(tree: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the options of one deployment, to be changed in place."""
    options: list[dict[str, Any]] = tree["applications"][0]["deployments"]
    if all(one["name"] != name for one in options):
        options.append({"name": name})
    return next(one for one in options if one["name"] == name)


def broken_copy(bench: Bench, run: Path) -> Path:
    """Returns a copy of a run's checkpoint whose weights end in the middle."""
    broken = bench.work / "serve-broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(resolve_checkpoint(str(run)), broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return broken


def meal_files(bench: Bench, count: int) -> Sequence[Path]:
    """Returns images of foodmix's test set, each of another source where there are as many."""
    turns: dict[str, int] = {}
    order = []
    for stem in stems(foodmix(bench), "test"):
        source = stem.partition("__")[0]
        turns[source] = turns.get(source, 0) + 1
        order.append((turns[source], stem))
    return [foodmix(bench) / "images" / f"{stem}.jpg" for _, stem in sorted(order)[:count]]


def meals(bench: Bench, count: int) -> list[bytes]:
    """Returns the same images as they are in their files."""
    return [path.read_bytes() for path in meal_files(bench, count)]


def is_free(port: int) -> bool:
    """Returns whether nobody listens on a port of 127.0.0.1 now."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
