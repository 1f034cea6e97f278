"""Scoring takes GPUs where the cluster has them or can start nodes with them, and never the CPU in silence."""

import pytest

from foodseg.errors import Unavailable, UserError
from foodseg.eval.scoring_plan import scoring_plan


@pytest.mark.parametrize(
    ("wanted", "gpus", "to_come", "device", "reserved", "workers", "why"),
    [
        # nothing can come
        ("auto", 0, 0, "cpu", 0, 4, "the cluster has no GPU"),
        ("auto", 4, 0, "gpu", 1, 4, "a GPU each"),
        ("auto", 9, 0, "gpu", 1, 4, "a GPU each"),
        ("auto", 1, 0, "gpu", 1, 1, "a GPU each"),  # one process on the GPU, not four on CPUs
        ("gpu", 2, 0, "gpu", 1, 2, "a GPU each"),
        ("cpu", 4, 0, "cpu", 0, 4, "--device cpu"),
        # GPU workers from 0, as in cluster.yaml
        ("auto", 0, 8, "gpu", 1, 4, "a GPU each, for which nodes have to be started"),
        ("gpu", 0, 8, "gpu", 1, 4, "a GPU each, for which nodes have to be started"),
        ("auto", 0, 2, "gpu", 1, 2, "a GPU each, for which nodes have to be started"),
        ("auto", 1, 8, "gpu", 1, 4, "a GPU each"),
        ("cpu", 0, 8, "cpu", 0, 4, "--device cpu"),
        # it is not known what may come
        ("auto", 1, None, "gpu", 1, 4, "a GPU each"),
        ("gpu", 0, None, "gpu", 1, 4, "a GPU each, for which nodes have to be started"),
        ("cpu", 0, None, "cpu", 0, 4, "--device cpu"),
    ],
)
def test_places(wanted, gpus, to_come, device, reserved, workers, why):
    plan = scoring_plan(wanted, 4, gpus=gpus, gpus_to_come=to_come)
    assert (plan.device, plan.gpus, plan.workers, plan.why) == (device, reserved, workers, why)


def test_a_gpu_that_can_never_come_is_refused():
    with pytest.raises(Unavailable, match=r"^--device gpu: no node of the cluster has a GPU, and it starts none"):
        scoring_plan("gpu", 2, gpus=0, gpus_to_come=0)


def test_auto_does_not_assume_which_nodes_may_come():
    with pytest.raises(UserError, match=r"does not say whether some have GPUs: choose --device gpu or --device cpu$"):
        scoring_plan("auto", 2, gpus=0, gpus_to_come=None)
