"""The files of sweeps and ablations: what is refused before anything starts, and what may change on the way."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from foodseg import storage
from foodseg.errors import UserError
from foodseg.tune.sweep_files import begin, read_ablation, read_sweep, slug

CONFIGS = Path(__file__).parents[3] / "jobs" / "configs"
SPACE = {"loss.dice": {"uniform": [0, 1]}}
VARIANTS = {"A image only": None, "D": {"loss.distill": 0.5}, "peer": {"predictions": "maps/{seed}"}}


def folded(config: Any, settings: Any = None) -> Any:
    data = {"val_split": None, **config.get("data", {})}
    return {"ablation": {"folds": 2}, "variants": {"A": settings}, "config": {**config, "data": data}}


def written(path: Path, tree: Any) -> str:
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def test_a_sweep_is_read(tmp_path):
    tree = {"sweep": {"trials": 3}, "space": SPACE, "config": {"train": {"steps": 70}, "optim": None}}
    plan = read_sweep(written(tmp_path / "s.yaml", tree), ["sweep.hours=2", "config.optim.lr=3e-4"])
    assert (plan.sweep.trials, plan.sweep.hours, plan.base.optim.lr, plan.base.train.steps) == (3, 2, 3e-4, 70)
    assert [param.name for param in plan.space.hyperparameters] == ["loss.dice"]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"space": SPACE, "train": {"steps": 7}},
            "'train' is not a part of such a file; the parts are sweep, space, config",
        ),
        ({"sweep": {"trails": 3}, "space": SPACE}, r"unknown key 'sweep.trails'; did you mean sweep.trials\?"),
        ({"sweep": {"grace": 1}, "space": SPACE}, "sweep.grace: must be below 1, found 1"),
        ({"sweep": {"trials": None}, "space": SPACE}, "the sweep would never end"),
        ({"sweep": {"scheduler": "median"}, "space": SPACE}, "sweep.scheduler: must be 'none' or 'asha'"),
        ({"space": SPACE, "config": {"train": {"stepz": 7}}}, "config: unknown key 'train.stepz'"),
        ({"space": SPACE, "config": [1]}, "config: must be sections"),
        ({"space": {"loss.dise": {"choice": [1]}}}, "unknown key 'loss.dise'"),
        ({"space": SPACE, "config": {"data": {"val_split": None}}}, "data.val_split is null"),
        ({}, "space: must name what is searched"),
    ],
)
def test_what_is_wrong_with_a_sweep(tmp_path, tree, message):
    with pytest.raises(UserError, match=message):
        read_sweep(written(tmp_path / "s.yaml", tree), [])


def test_an_ablation_is_read(tmp_path):
    path = written(tmp_path / "a.yaml", {"ablation": {"subsets": ["soy.txt"]}, "variants": VARIANTS})
    plan = read_ablation(path, ["ablation.seeds=[1, 2]"], ["rice.txt"])
    assert plan.ablation.seeds == (1, 2)
    assert [Path(name).name for name in plan.ablation.subsets] == ["soy.txt", "rice.txt"]
    assert plan.variants["A image only"].settings == {} and plan.variants["D"].settings == {"loss.distill": 0.5}
    assert plan.variants["peer"].predictions == str(Path("maps/{seed}").absolute())
    assert plan.contrasts == {
        "D - A image only": ("D", "A image only"),
        "peer - A image only": ("peer", "A image only"),
    }
    named = read_ablation(written(tmp_path / "b.yaml", {"variants": VARIANTS, "contrasts": {"x": ["D", "peer"]}}), [])
    assert named.contrasts == {"x": ("D", "peer")}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"variants": {}}, "variants: must name at least one variant"),
        ({"variants": {"A b": {}, "a-B": {}}}, "the names must differ"),
        ({"variants": {"A": {"loss.distil": 1}}}, "variants: A: unknown key 'loss.distil'"),
        ({"variants": {"A": [1]}}, "variants: A: must hold the keys that it sets"),
        (
            {"variants": {"A": {"predictions": "x", "loss.dice": 1}}},
            "predictions must be a folder of label maps, and the only",
        ),
        ({"variants": {"A": {"train.seed": 1}}}, "train.seed is set for every run by the ablation itself"),
        ({"variants": VARIANTS, "contrasts": {"x": ["D", "E"]}}, "contrasts: x: must be two of the variants"),
        ({"variants": VARIANTS, "ablation": {"seeds": [1, 1]}}, "ablation.seeds must differ"),
        ({"variants": VARIANTS, "ablation": {"weights": "all"}}, "ablation.weights: must be 'both'"),
        ({"variants": VARIANTS, "space": SPACE}, "'space' is not a part"),
        ({"variants": {"A": {"data.folds": 3}}}, "data.folds is set for every run by the ablation itself"),
        ({"variants": {"peer": {"predictions": "maps/{fold}"}}}, r"a folder for each \{fold\} needs ablation.folds"),
        ({"variants": VARIANTS, "ablation": {"folds": 1}}, "ablation.folds: must be at least 2"),
        ({"variants": VARIANTS, "ablation": {"folds": 2, "split": "test"}}, "ablation.split = 'test' has no effect"),
        ({"variants": VARIANTS, "ablation": {"folds": 2, "data": "x"}}, "so ablation.data has no effect"),
        (
            {"variants": VARIANTS, "ablation": {"folds": 2}},
            r"val_split is 'val', but .* set config.data.val_split=null and config.data.train_splits=\[train, val\]",
        ),
        (folded({"data": {"folds": 3, "held_out": 0}}), "config.data.folds is set for every run by ablation.folds"),
        (folded({}, {"data.train_splits": ["train", "val"]}), "variants: A: with ablation.folds all variants are"),
        (folded({}, {"data.val_split": "val"}), "config.data.val_split is 'val'"),
    ],
)
def test_what_is_wrong_with_an_ablation(tmp_path, tree, message):
    with pytest.raises(UserError, match=message):
        read_ablation(written(tmp_path / "a.yaml", tree), [])


def test_the_seeds_of_an_ablation(tmp_path):
    def repetitions(*overrides: str) -> tuple[int, ...]:
        return read_ablation(written(tmp_path / "a.yaml", folded({})), overrides).ablation.repetitions

    assert repetitions() == (0,)
    assert repetitions("ablation.folds=null") == (0, 1, 2)
    assert repetitions("ablation.seeds=[4, 7]") == (4, 7)


def test_a_folder_belongs_to_one_sweep(tmp_path):
    uri = str(tmp_path / "sweep")
    path = written(tmp_path / "s.yaml", {"space": SPACE})
    begin(uri, "sweep.yaml", read_sweep(path, []).given, resume=False)
    with pytest.raises(UserError, match="is not empty: give --resume"):
        begin(uri, "sweep.yaml", read_sweep(path, []).given, resume=False)
    longer = ["sweep.trials=99", "sweep.worker_hours=3", "config.scaling.resources_per_worker={CPU: 2}"]
    begin(uri, "sweep.yaml", read_sweep(path, longer).given, resume=True)
    assert read_sweep(f"{uri}/sweep.yaml", []).sweep.trials == 99
    with pytest.raises(UserError, match=r"begun with other settings: config.optim.lr was 0.001, now 0.1"):
        begin(uri, "sweep.yaml", read_sweep(path, ["config.optim.lr=0.1"]).given, resume=True)
    other = written(tmp_path / "t.yaml", {"space": {"loss.dice": {"uniform": [0, 2]}}})
    with pytest.raises(UserError, match=r"space.loss.dice.uniform was \[0, 1\], now \[0, 2\]"):
        begin(uri, "sweep.yaml", read_sweep(other, []).given, resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(UserError, match=r"holds files but no sweep\.yaml"):
        begin(str(tmp_path / "full"), "sweep.yaml", {}, resume=True)


def test_of_two_that_begin_a_sweep_at_the_same_moment_one_is_refused(tmp_path, monkeypatch):
    looked = threading.Barrier(2)
    monkeypatch.setattr(storage, "list_names", lambda uri: [looked.wait()][1:])

    def start(trials):
        try:
            begin(str(tmp_path / "sweep"), "sweep.yaml", {"sweep": {"trials": trials}}, resume=False)
        except UserError as error:
            return str(error)
        return "begun"

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(start, range(2)))
    assert sorted("is not empty: give --resume" in said for said in outcomes) == [False, True]
    assert f"trials: {outcomes.index('begun')}" in (tmp_path / "sweep" / "sweep.yaml").read_text()


def test_an_ablation_may_get_more_variants(tmp_path):
    uri = str(tmp_path / "ablation")

    def given(variants: dict[str, Any]) -> Any:
        return read_ablation(written(tmp_path / "a.yaml", {"variants": variants}), []).given

    begin(uri, "ablation.yaml", given(VARIANTS), resume=False)
    begin(uri, "ablation.yaml", given({**VARIANTS, "E": {"loss.distill": 0.1}}), resume=True)
    with pytest.raises(UserError, match=r"other settings: the variant 'E' is gone"):
        begin(uri, "ablation.yaml", given(VARIANTS), resume=True)
    with pytest.raises(UserError, match=r"other settings: the variant 'A image only' is gone"):  # it sets nothing
        begin(uri, "ablation.yaml", given({"D": {}, "peer": {}, "E": {}}), resume=True)
    with pytest.raises(UserError, match=r"variants\.E\.loss\.distill was 0\.1, now 0\.2"):
        begin(uri, "ablation.yaml", given({**VARIANTS, "E": {"loss.distill": 0.2}}), resume=True)


@pytest.mark.parametrize("name", ["sweep", "ablation"])
def test_a_file_that_was_written_before_a_key_was_known_is_resumed(tmp_path, name):
    uri = tmp_path / name
    tree = {"space": SPACE} if name == "sweep" else {"variants": VARIANTS}
    path = written(tmp_path / "a.yaml", tree)
    given = (read_sweep(path, []) if name == "sweep" else read_ablation(path, [])).given
    begin(str(uri), f"{name}.yaml", given, resume=False)
    older = yaml.safe_load((uri / f"{name}.yaml").read_text())
    del older["config"]["train"]["global_batch"], older["config"]["data"]["folds"]
    del older[name]["seed" if name == "sweep" else "weights"]
    written(uri / f"{name}.yaml", older)
    begin(str(uri), f"{name}.yaml", given, resume=True)
    written(uri / f"{name}.yaml", older)
    changed = {**given, "config": {**given["config"], "train": {**given["config"]["train"], "global_batch": 7}}}
    with pytest.raises(UserError, match=r"config\.train\.global_batch was \d+, now 7"):
        begin(str(uri), f"{name}.yaml", changed, resume=True)


def test_slugs():
    assert slug("E D, a conditioned teacher") == "e-d-a-conditioned-teacher"


def test_the_examples_are_read():
    plan = read_sweep(str(CONFIGS / "sweep.yaml"), ["config.data.uri=prepared/meals"])
    assert {"loss.distill", "distill.temperature"} <= {param.name for param in plan.space.hyperparameters}
    assert len(read_ablation(str(CONFIGS / "ablate.yaml"), []).contrasts) == 2
