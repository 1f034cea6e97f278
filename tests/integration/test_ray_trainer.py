"""Training under Ray Train: two workers learn what one process learns."""

import json

import pytest
import torch

from foodseg.checkpoint import load_checkpoint
from foodseg.checkpoint_files import resolve_checkpoint
from foodseg.train.ray_trainer import run_training
from tests.drawn import drawn_config, write_drawn

SETTINGS = [
    "train.steps=8",
    "train.validate_every=8",
    "train.checkpoint_every=8",
    "train.log_every=1",
    "train.batch_norm=frozen",
    "train.global_batch=4",
    "model.dropout=0",
]


def test_two_workers_learn_what_one_process_learns(ray_cluster, tmp_path):
    data = write_drawn(tmp_path / "data")
    alone = run_training(drawn_config(data, tmp_path / "alone", *SETTINGS, "scaling.num_workers=0"))
    shared = run_training(drawn_config(data, tmp_path / "shared", *SETTINGS, "scaling.num_workers=2"))

    a, b = (load_checkpoint(resolve_checkpoint(run["run"])) for run in (alone, shared))
    assert a.step == b.step == 8
    for name, weights in a.student.items():
        # the same sums in another order: float32 rounding, grown by Adam's division by small second moments
        torch.testing.assert_close(b.student[name], weights, rtol=2e-2, atol=2e-3)
    lines = [
        [json.loads(x) for x in (tmp_path / r / "log.jsonl").read_text().splitlines()] for r in ("alone", "shared")
    ]
    losses = [[line["loss/cross_entropy"] for line in part if "loss/cross_entropy" in line] for part in lines]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert losses[0][-1] != losses[0][0]
    assert [line["positions"] for line in lines[1] if "positions" in line] == [[s * 4, s * 4 + 4] for s in range(8)]
    assert shared["miou"] == pytest.approx(alone["miou"], abs=0.02)
