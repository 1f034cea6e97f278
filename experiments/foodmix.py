"""What the experiments share of the real images: where they are, prepared, and how scores are read.

data = prepared_foodmix(bench)
bench.foodseg("train", "--config", "jobs/configs/foodmix.yaml", *sets(f"data.uri={data}"))
"""

import shutil
from pathlib import Path
from typing import Any

from experiments.item_queue import Bench, ItemError

SUBSETS = ("headline", "core", "soy")


def foodmix(bench: Bench) -> Path:
    """The real images, their masks and lists, in the folder layout."""
    folder = bench.shared / "datasets" / "foodmix"
    if not folder.is_dir():
        raise ItemError(f"shared data missing: {folder}; set FOODSEG_SHARED")
    return folder


def weights(bench: Bench) -> Path:
    """ImageNet's weights of the backbone."""
    return bench.shared / "weights" / "tf_efficientnet_lite0.safetensors"


def vit_weights(bench: Bench) -> Path:
    """A ViT-S/14 by the names and shapes of DINOv2."""
    return bench.shared / "weights" / "vit_small_patch14_dinov2_fp16.safetensors"


def prepared_foodmix(bench: Bench) -> Path:
    """The real images as local shards, made once."""
    data = bench.work / "foodmix"
    if not (data / "dataset.json").exists():
        bench.foodseg("data", "prepare", foodmix(bench), data)
    return data


def class_embeddings(bench: Bench) -> dict[str, Path]:
    """Tables of one embedding per class name (MiniLM, not CLIP), made once: true, permuted, random."""
    made = {}
    for name, how in {"names": (), "permuted": ("--permute", 1), "random": ("--random",)}.items():
        made[name] = bench.work / f"{name}.safetensors"
        if not made[name].exists():
            bench.foodseg("data", "embed", prepared_foodmix(bench), made[name], *how)
    return made


def stems(folder: Path, split: str) -> list[str]:
    """The images that a split of the folder layout lists, without their endings."""
    lines = (folder / f"{split}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def subset_options(bench: Bench) -> list[object]:
    """`--subset` with the class lists of foodmix."""
    return [word for name in SUBSETS for word in ("--subset", foodmix(bench) / f"{name}_classes.txt")]


def sets(*values: str) -> list[str]:
    """`--set` before each value."""
    return [word for value in values for word in ("--set", value)]


def scores_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """All scores but those of the single classes, which are in the metrics.json of the evaluation."""
    summary = {name: value for name, value in metrics["scores"].items() if name != "classes"}
    return {"config_hash": metrics.get("config_hash"), **summary}


def fresh(folder: Path) -> Path:
    """Removes what an earlier attempt left there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder
