"""A run that is killed (SIGKILL) and started again ends as the one that nobody touched."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch

from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.checkpoint.find import newest_checkpoint
from tests.support.synthetic_set import synthetic_config, write_synthetic

ROOT = Path(__file__).parents[3]
SCRIPT = """
import sys, time, torch
from foodseg.config import parse_config
from foodseg.train.loop import train
from tests.support.gloo_rank import prepared
import json

torch.set_num_threads(1)
run, context = prepared(parse_config(json.loads(sys.argv[1])), resume=sys.argv[2] == "resume")
if sys.argv[2] == "slow":
    context.stop_requested = lambda: bool(time.sleep(0.3))  # so that the kill lands between two checkpoints
train(run.config, run.manifest, run.total_steps, context)
"""


def start(config, how: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, config.model_dump_json(), how], env=environment, cwd=ROOT, start_new_session=True
    )


def log_lines(run: Path) -> list[dict]:
    path = run / "log.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if "positions" in line]


def test_killed_and_resumed(tmp_path):
    data = write_synthetic(tmp_path / "data")
    settings = ["train.steps=10", "train.checkpoint_every=4", "model.dropout=0.2", "data.val_split=null"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    victim = start(synthetic_config(data, killed, *settings), "slow")
    undisturbed = start(synthetic_config(data, whole, *settings), "plain")
    try:
        deadline = time.monotonic() + 200
        while not any(line["step"] == 6 for line in log_lines(killed)):
            assert victim.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        assert victim.wait(timeout=60) == -signal.SIGKILL
        assert undisturbed.wait(timeout=200) == 0
    finally:
        for process in (victim, undisturbed):
            process.kill()
    assert newest_checkpoint(str(killed)).endswith("step-00000004")

    assert start(synthetic_config(data, killed, *settings), "resume").wait(timeout=200) == 0
    expected, found = (load_checkpoint(newest_checkpoint(str(run))) for run in (whole, killed))
    assert expected.step == found.step == 10
    for name, tensor in expected.student.items():
        torch.testing.assert_close(found.student[name], tensor, rtol=0, atol=1e-6)
    for name, tensor in expected.teacher.items():
        torch.testing.assert_close(found.teacher[name], tensor, rtol=0, atol=1e-6)

    seen = defaultdict(list)
    for line in log_lines(killed):
        seen[line["step"]].append((tuple(line["positions"]), round(line["loss/cross_entropy"], 5)))
    assert sorted(seen) == list(range(1, 11))
    assert {step for step, lines in seen.items() if len(lines) == 2} == {5, 6}
    for step, lines in seen.items():
        assert lines[0][0] == (4 * (step - 1), 4 * step)
        assert len(set(lines)) == 1, step
