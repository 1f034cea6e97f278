"""A rank may pause for longer than the limit; one that waits longer for data fails, with one sentence."""

import time
from functools import partial

import pytest
import ray

from foodseg.errors import RetryLater
from foodseg.train.ray_trainer import run_training
from foodseg.train.ray_worker import RayContext
from tests.support.ray_cluster import CPUS
from tests.support.synthetic_set import synthetic_config, write_synthetic

LIMIT = 6.0
pytestmark = pytest.mark.chaos
SETTINGS = ["scaling.num_workers=1", "train.max_failures=0", "data.val_split=null"]


def test_a_pause_longer_than_the_limit_is_not_starvation(ray_cluster, tmp_path):
    class Pausing(RayContext):
        """Pauses at its first checkpoint, as a validation or an upload might."""

        def report(self, report, checkpoint):
            super().report(report, checkpoint)
            if report.step == 2:
                time.sleep(25)

    # more blocks of rows than are read ahead
    config = synthetic_config(
        write_synthetic(tmp_path / "d"), tmp_path / "run", "train.steps=160", "train.checkpoint_every=2", *SETTINGS
    )
    began = time.monotonic()
    assert run_training(config, build_context=partial(Pausing, timeout=LIMIT)).step == 160
    assert time.monotonic() - began > 25


def test_a_starved_rank_fails_with_one_sentence(ray_cluster, tmp_path):
    @ray.remote(num_cpus=CPUS - 1)
    class Other:
        """Holds every CPU that reading and decoding would need."""

        def ready(self):
            return True

    other = Other.remote()
    assert ray.get(other.ready.remote(), timeout=120)
    settings = [*SETTINGS, "data.decode=cluster", "scaling.resources_per_worker={CPU: 1}"]
    config = synthetic_config(write_synthetic(tmp_path / "d"), tmp_path / "run", *settings)
    try:
        with pytest.raises(RetryLater) as caught:
            run_training(config, build_context=partial(RayContext, timeout=LIMIT, first=LIMIT))
    finally:
        ray.kill(other)
    assert str(caught.value) == (
        "training failed: no image arrived for 6 s: reading or decoding has stalled; look for storage that does not "
        "answer, or for CPUs of the cluster that others hold; once that is mended, run it again with --resume"
    )
