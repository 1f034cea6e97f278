"""Parts of a run are killed; it ends with the right number of steps and a usable model all the same."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from foodseg import storage
from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config.load import to_yaml
from foodseg.train.ray_trainer import run_training
from tests.support.drivers import kill_driver, wait_for
from tests.support.s3_server import S3Server
from tests.support.synthetic_set import synthetic_config, write_synthetic

STEPS = 40
SETTINGS = [f"train.steps={STEPS}", "train.validate_every=40", "train.checkpoint_every=5", "train.log_every=1"]


def logged_steps(run: Path) -> list[int]:
    if not (run / "log.jsonl").exists():
        return []
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if line.endswith("}")]
    return [line["step"] for line in lines if "positions" in line]


def assert_whole(run_uri: str) -> None:
    """The run's newest checkpoint is that of the last step, and its model works."""
    newest = newest_checkpoint(run_uri)
    assert newest is not None
    checkpoint = load_checkpoint(newest)
    assert checkpoint.step == STEPS
    load_model(checkpoint, "ema")
    assert [each.step for each in checkpoint.history] == [STEPS]


@pytest.mark.chaos
def test_a_killed_worker_costs_only_the_steps_since_the_last_checkpoint(ray_cluster, tmp_path):
    run = tmp_path / "run"
    config = synthetic_config(write_synthetic(tmp_path / "data"), run, *SETTINGS, "scaling.num_workers=2")
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run_training, config)
        wait_for(lambda: len(logged_steps(run)) >= 8 or training.done())
        # those that this process started: others may be training on this machine
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())]
        workers[-1].send_signal(signal.SIGKILL)
        before = logged_steps(run)[-1]
        result = training.result(timeout=300)

    assert result.step == STEPS
    assert_whole(str(run))
    steps = logged_steps(run)
    restart = next(i for i in range(1, len(steps)) if steps[i] <= steps[i - 1])
    assert steps[restart] % 5 == 1  # just after a checkpoint
    assert before - 5 <= steps[restart] <= steps[restart - 1]
    assert steps[restart:] == list(range(steps[restart], STEPS + 1))


@pytest.mark.chaos
def test_a_killed_driver_is_resumed_and_a_torn_checkpoint_is_passed_over(tmp_path):
    run = tmp_path / "run"
    config = synthetic_config(write_synthetic(tmp_path / "data"), run, *SETTINGS, "scaling.num_workers=1")
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "foodseg", "train", "--config", str(tmp_path / "config.yaml"), "--json"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: len(logged_steps(run)) >= 12 or driver.poll() is not None)
    kill_driver(driver)
    torn = sorted((run / "checkpoints").iterdir())[-1]
    (torn / "model.safetensors").write_bytes(b"half")

    resumed = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=280, check=False)

    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["step"] == STEPS
    assert f"{torn} is torn: model.safetensors has 4 bytes" in resumed.stderr
    assert_whole(str(run))


@pytest.mark.chaos
def test_ctrl_c_ends_a_training_on_ray_with_130(tmp_path):
    run = tmp_path / "run"
    config = synthetic_config(
        write_synthetic(tmp_path / "data"), run, *SETTINGS, "train.steps=4000", "scaling.num_workers=1"
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "foodseg", "train", "--config", str(tmp_path / "config.yaml"), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
        try:
            wait_for(lambda: len(logged_steps(run)) >= 6 or driver.poll() is not None)
            driver.send_signal(signal.SIGINT)
            out, err = driver.communicate(timeout=120)
        finally:
            driver.kill()
    sentence = "interrupted; resume it with --resume"
    assert driver.returncode == 130, err
    assert json.loads(out) == {"error": {"message": sentence, "exit_code": 130}}
    assert f"foodseg: {sentence}" in err and "Traceback" not in err


@pytest.mark.chaos
def test_the_storage_server_restarts_in_mid_run(ray_cluster, s3: S3Server):
    run = "s3://foodseg/faults/run"
    config = synthetic_config(write_synthetic("s3://foodseg/faults/data"), run, *SETTINGS, "scaling.num_workers=1")
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(run_training, config)
        wait_for(lambda: len(storage.list_names(f"{run}/checkpoints")) >= 1 or training.done())
        s3.kill()
        time.sleep(2)
        s3.start()
        result = training.result(timeout=300)

    assert result.step == STEPS
    assert_whole(run)
