"""What is settled before a trial starts: what its workers get, and that what is only scored is there."""

from pathlib import Path

import pytest

from foodseg.config import parse_config
from foodseg.errors import UserError
from foodseg.tune.files import read_ablation
from foodseg.tune.ray_ablate import run_ablation
from foodseg.tune.ray_tuner import with_own_threads
from tests.drawn import write_drawn
from tests.sweeps import write_ablation


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


def test_label_maps_that_are_not_there_are_refused_before_a_training(tmp_path: Path):
    arms = {"plain": None, "peer": {"predictions": str(tmp_path / "maps-{seed}")}}
    path = write_ablation(
        tmp_path / "a.yaml", write_drawn(tmp_path / "data"), tmp_path / "ablation", arms=arms,
        ablation={"seeds": [3], "split": "test"}, overrides=["data.val_split=null"],
    )  # fmt: skip
    with pytest.raises(UserError, match=r"arms\.peer\.predictions: .*maps-3 is empty or not there"):
        run_ablation(read_ablation(path, []))
    assert not (tmp_path / "ablation").exists()
