"""Whenever a training on Ray is ended, and by whatever signal, nothing of it is left within a minute."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from foodseg.cluster.orphans import MARK, namespace
from foodseg.config.load import to_yaml
from tests.support.drivers import require_ended, wait_for
from tests.support.synthetic_set import synthetic_config, write_synthetic

pytestmark = pytest.mark.chaos


def marked(pid: int) -> list[psutil.Process]:
    """Everything of the Ray that the command with this process id has started, whoever is its parent by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK, "").startswith(f"{pid}/{namespace()}/"):
                found.append(process)
        except psutil.Error:
            pass
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGKILL, "start"),
        (signal.SIGTERM, "start"),
        (signal.SIGKILL, "step"),
        (signal.SIGTERM, "step"),
        (signal.SIGHUP, "step"),
        (signal.SIGINT, "step"),
        (signal.SIGKILL, "validation"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_nothing_is_left(tmp_path: Path, number: signal.Signals, when: str) -> None:
    run = tmp_path / "run"
    settings = ["train.steps=100000", "scaling.num_workers=2", "train.validate_every=2", "eval.longest_side=null"]
    config = synthetic_config(write_synthetic(tmp_path / "d", val=600 if when == "validation" else 4), run, *settings)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "foodseg", "train", "--config", str(tmp_path / "config.yaml")]
    said = tmp_path / "said"
    with said.open("wb") as stderr:
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env={**os.environ})

    def reached() -> bool:
        if when == "start":
            return bool(marked(driver.pid))  # the first process of Ray is there
        log = run / "log.jsonl"
        return log.exists() and len(log.read_text().splitlines()) >= 2  # the second update is validated

    wait_for(lambda: driver.poll() is not None or reached(), 300)
    assert driver.poll() is None, said.read_text()
    if when != "validation":
        time.sleep(1)
    helpers = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(number)
    driver.wait(timeout=60)
    require_ended([*helpers, *marked(driver.pid)])
    assert marked(driver.pid) == []
    words = said.read_text()
    assert "Traceback" not in words, words
    if number is not signal.SIGKILL:
        assert driver.returncode == 130
        assert "foodseg: interrupted; resume it with --resume" in words
