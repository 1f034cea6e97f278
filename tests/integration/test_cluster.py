"""Three nodes: prepare, train, evaluate; one node is lost in the middle of the training."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import pytest
import ray
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster
from ray.experimental import internal_kv

from foodseg.checkpoint.checkpoint import load_checkpoint, load_model
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config.load import to_yaml
from foodseg.data.shards import read_manifest
from foodseg.demo.synthetic import write_meals
from foodseg.metrics.per_image import merge, read_image_counts
from tests.integration.test_faults import logged_steps
from tests.support.drivers import wait_for
from tests.support.synthetic_set import synthetic_config

ROOT = Path(__file__).parents[2]
STEPS, EVERY, BATCH = 160, 20, 4
STORE = 100 * 2**20


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head and two other nodes, separate from the Ray that other tests share: drivers are processes of their own.

    Both workers of 2 CPUs find room, and leave CPUs for the data. When a node is lost, two would still find room, and
    leave one: too few for a stream.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_period_ms", "1000")  # a lost node is noticed after 3 seconds rather than 15
        patch.setenv("RAY_health_check_failure_threshold", "3")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")
        head = {"num_cpus": 2, "object_store_memory": STORE, "include_dashboard": False}
        made = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            made.add_node(wait=False, num_cpus=3, object_store_memory=STORE)
        made.wait_for_nodes()
    yield made
    left = [process for node in made.list_all_nodes() for process in processes(node)]
    made.shutdown()
    for process in psutil.wait_procs(left, timeout=5)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if ray.is_initialized():  # the cluster took the key-value store of the one that other tests share with it
        internal_kv._initialize_internal_kv(ray._private.worker.global_worker.gcs_client)


def processes(node: Any) -> list[psutil.Process]:
    """What Ray runs on a node."""
    return psutil.Process(node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid).children(recursive=True)


def trains(node: Any) -> bool:
    """Whether a training worker runs on the node."""
    for process in processes(node):
        with contextlib.suppress(psutil.Error):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                return True
    return False


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_lost_node_costs_only_the_steps_since_the_last_checkpoint(cluster: Cluster, tmp_path: Path) -> None:
    run, prepared = tmp_path / "run", tmp_path / "prepared"
    write_meals(tmp_path / "meals", train=24, test=2, seed=0, longest_side=96)
    config = synthetic_config(
        str(prepared), run, f"train.steps={STEPS}", f"train.validate_every={STEPS}", f"train.checkpoint_every={EVERY}",
        f"train.global_batch={BATCH}", "scaling.num_workers=[1, 2]", "scaling.resources_per_worker={CPU: 2}",
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    with (tmp_path / "said").open("w") as said, (tmp_path / "results").open("w") as results:
        driver = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cluster_run", cluster.address, str(tmp_path)],
            stdout=results, stderr=said, cwd=ROOT, env={**os.environ, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5"},
        )  # fmt: skip
        try:
            wait_for(lambda: len(logged_steps(run)) >= EVERY + 2 or driver.poll() is not None, 400)
            assert driver.poll() is None, (tmp_path / "said").read_text()
            assert newest_checkpoint(str(run)) is not None
            before = logged_steps(run)[-1]
            cluster.remove_node(next(node for node in cluster.worker_nodes if trains(node)), allow_graceful=False)
            code = driver.wait(timeout=400)
        finally:
            driver.kill()

    printed = (tmp_path / "said").read_text()
    assert code == 0, printed
    assert (
        printed.index("training on 2 workers")
        < printed.index("workers were lost")
        < printed.index("training on 1 worker\n")
    )
    # what Ray prints about the lost node is not on stdout
    prepared_as, trained, scored = [json.loads(line) for line in (tmp_path / "results").read_text().splitlines()]
    assert prepared_as["splits"]["train"]["images"] + prepared_as["splits"]["val"]["images"] == 24
    assert trained["step"] == STEPS
    newest = newest_checkpoint(str(run))
    assert newest is not None and load_checkpoint(newest).step == STEPS
    load_model(load_checkpoint(newest), "ema")

    steps = logged_steps(run)
    restart = next(i for i in range(1, len(steps)) if steps[i] <= steps[i - 1])
    assert steps[restart] % EVERY == 1  # just after a checkpoint
    assert before - EVERY <= steps[restart] <= steps[restart - 1]
    assert steps == [*range(1, steps[restart - 1] + 1), *range(steps[restart], STEPS + 1)]
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for line in lines:
        if "positions" in line:
            assert line["positions"] == [(line["step"] - 1) * BATCH, line["step"] * BATCH]

    images, _ = read_image_counts(str(tmp_path / "scores" / "images.parquet"))
    assert len(images) == scored["images"] == read_manifest(str(prepared)).counts["val"].images
    masks = [tmp_path / "meals" / "masks" / f"{image.image_id}.png" for image in images]
    truth = sum(np.bincount(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED).ravel(), minlength=256) for mask in masks)
    classes = len(read_manifest(str(prepared)).classes)
    assert merge(images, classes).sum(1).tolist() == truth[:classes].tolist()
