"""Every configuration of the repository can be used in a fresh clone: it loads, and no file that it names is absent."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foodseg.config import ExperimentConfig, load_config
from foodseg.config.literals import plain
from foodseg.config.load import leaves, read_tree
from foodseg.train.run import with_absolute_uris
from foodseg.tune.sweep_files import read_ablation, read_sweep

ROOT = Path(__file__).resolve().parents[3]
LISTED = subprocess.run(["git", "ls-files", "*.yaml"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
FILES = [ROOT / name for name in LISTED.splitlines()] or sorted(ROOT.glob("jobs/configs/*.yaml"))
READ = {  # keys of texts that a training reads when it starts
    "data.uri", "data.uris", "model.weights", "model.text.table", "model.text.model", "model.text.tag",
}  # fmt: skip
# what the user names (the empty data.uri is refused with a sentence), the hub's names, and what `foodseg demo`, or the
# command that a file begins with, makes
GIVEN = {"", "timm", "none", "ViT-L-14", "openai"}
MADE = {(name, "names.safetensors") for name in ("demo.yaml", "foodmix_realtime.yaml", "open_vocabulary.yaml")}


def trainings() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in FILES:
        if path.parent.name == "configs" or path.name in ("demo.yaml", "peer_recipe.yaml"):
            yield path, read_tree(str(path))


@pytest.mark.parametrize(("path", "tree"), list(trainings()), ids=lambda value: getattr(value, "name", ""))
def test_it_names_no_file_that_a_clone_lacks(path: Path, tree: dict[str, Any]) -> None:
    if "sweep" in tree:
        plan = read_sweep(str(path), [])
        configs = [plan.base]
        settings = [setting for param in plan.space.hyperparameters for setting in param.choices.values()]
    elif "ablation" in tree:
        ablation = read_ablation(str(path), [])
        assert not ablation.ablation.subsets and ablation.ablation.data is None
        assert all(variant.predictions is None for variant in ablation.variants.values())
        configs, settings = [ablation.base], [variant.settings for variant in ablation.variants.values()]
    else:
        configs, settings = [load_config(str(path)).config], []
    named = [(key, value) for config in configs for key, value in leaves(config.model_dump(mode="json"))]
    named += [(key, value) for setting in settings for key, value in setting.items()]
    for key, value in named:
        for text in value if isinstance(value, list) else [value]:
            if key in READ and isinstance(text, str) and text not in GIVEN and (path.name, text) not in MADE:
                assert text.startswith("hf://") or (ROOT / text).exists(), f"{path.name}: {key} = {text}"


def test_all_of_them_are_looked_at() -> None:
    assert {path.name for path, _ in trainings()} >= {
        "ablate.yaml", "demo.yaml", "foodmix.yaml", "foodmix_best.yaml", "foodmix_realtime.yaml", "foodmix_roi.yaml",
        "foodseg103.yaml",
        "open_vocabulary.yaml", "peer_recipe.yaml", "smoke.yaml", "sweep.yaml",
    }  # fmt: skip


def test_what_is_to_run_offline_asks_for_no_weights() -> None:
    for name in ("foodseg/demo/demo.yaml", "jobs/configs/smoke.yaml"):
        tree = plain(read_tree(str(ROOT / name)))
        assert tree["model"]["weights"] == "none"


def test_names_of_the_hub_are_not_paths() -> None:
    config = with_absolute_uris(ExperimentConfig())
    assert config.model.weights == "timm" and config.run.uri == str(Path("runs/default").absolute())
