"""What is settled before a trial starts: what its workers get, and that what is only scored is there."""

import contextlib
from pathlib import Path

import pytest

from foodseg.config import parse_config
from foodseg.errors import UserError
from foodseg.tune import ray_tuner
from foodseg.tune.ray_ablate import run_ablation
from foodseg.tune.ray_sweep import run_sweep
from foodseg.tune.ray_trial_queue import Limits, Plan
from foodseg.tune.ray_tuner import run_trials, with_own_threads
from foodseg.tune.search import ListedSearch
from foodseg.tune.sweep_files import read_ablation, read_sweep
from foodseg.tune.trials import Ledger
from tests.support.sweep_files import write_ablation, write_sweep
from tests.support.synthetic_set import write_synthetic


@pytest.mark.parametrize(
    ("gpu", "given", "expected"),
    [
        (False, None, {"CPU": 1}),
        (False, {"CPU": 4}, {"CPU": 4}),
        (False, {"food": 1}, {"CPU": 1, "food": 1}),
        (True, None, {"CPU": 1, "GPU": 1}),
        (True, {"CPU": 4}, {"CPU": 4, "GPU": 1}),
        (True, {"CPU": 4, "GPU": 0.5}, {"CPU": 4, "GPU": 0.5}),
    ],
)
def test_each_worker_gets_a_thread_and_its_gpu(gpu, given, expected):
    config = parse_config({"scaling": {"use_gpu": gpu, "resources_per_worker": given}})
    assert with_own_threads(config).scaling.resources_per_worker == expected


@pytest.mark.parametrize(
    ("nodes", "may_come", "asked", "expected"),
    [
        ([{"CPU": 0.0}], True, 8, 8),  # none is there yet: those that wait are what lets the cluster grow
        ([{"CPU": 8.0}], True, 8, 8),
        ([{"CPU": 8.0}], True, None, 1),
        ([{"CPU": 8.0}], False, 8, 1),  # two workers, who decode on another CPU each, and one CPU to read
        ([{"CPU": 8.0}], False, 1, 1),
        ([{"CPU": 8.0}, {"CPU": 8.0}], False, None, 3),
    ],
)
def test_how_many_trials_at_once(nodes, may_come, asked, expected, tmp_path, monkeypatch):
    found = []
    named = {str(number): node for number, node in enumerate(nodes)}
    monkeypatch.setattr(ray_tuner, "ray_session", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(ray_tuner, "living_nodes", lambda: named)
    monkeypatch.setattr(ray_tuner, "free_nodes", lambda: named)
    monkeypatch.setattr(ray_tuner, "nodes_may_come", lambda: may_come)
    monkeypatch.setattr(ray_tuner, "_run", lambda plan, concurrent, *_: found.append(concurrent))
    plan = Plan(Ledger(str(tmp_path)), ListedSearch([]), None, None, Limits(concurrent=asked))
    config = parse_config({"scaling": {"num_workers": 2, "resources_per_worker": {"CPU": 1}}})
    run_trials(plan, config, "auto")
    assert found == [expected]


def test_a_file_that_one_option_lacks_is_refused_before_a_training(tmp_path: Path):
    text = {"model.text.kind": "table", "model.text.table": str(tmp_path / "names.safetensors")}
    space = {
        "fusion": {
            "options": {
                "none": {},
                "film": {"model.fusion": "film", "model.ingredient_head": True, "loss.ingredients": 0.2, **text},
            }
        }
    }
    path = write_sweep(
        tmp_path / "s.yaml", write_synthetic(tmp_path / "data"), tmp_path / "sweep", space=space, sweep={"trials": 4}
    )
    with pytest.raises(UserError, match=r"names\.safetensors: no such file"):
        run_sweep(read_sweep(path, []))
    assert not (tmp_path / "sweep").exists()


def test_label_maps_that_are_not_there_are_refused_before_a_training(tmp_path: Path):
    variants = {"plain": None, "peer": {"predictions": str(tmp_path / "maps-{seed}")}}
    path = write_ablation(
        tmp_path / "a.yaml", write_synthetic(tmp_path / "data"), tmp_path / "ablation", variants=variants,
        ablation={"seeds": [3], "split": "test"}, overrides=["data.val_split=null"],
    )  # fmt: skip
    with pytest.raises(UserError, match=r"variants\.peer\.predictions: .*maps-3 is empty or not there"):
        run_ablation(read_ablation(path, []))
    assert not (tmp_path / "ablation").exists()
