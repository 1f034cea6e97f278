"""On which device a cluster scores, and with how many processes. Arithmetic only, without Ray.

scoring_plan("auto", 4, gpus=0, gpus_to_come=8)       # GPUs, of nodes that are started for it
"""

from dataclasses import dataclass

from foodseg.errors import Unavailable, UserError
from foodseg.predict.device import Device


@dataclass(frozen=True)
class ScoringPlan:
    """What scores.

    Attributes:
        device: what a process asks torch for.
        gpus: that a process reserves, 0 or 1.
        workers: how many processes.
        why: a sentence for the log.
    """

    device: Device
    gpus: int
    workers: int
    why: str


def scoring_plan(wanted: Device, workers: int, *, gpus: int, gpus_to_come: int | None) -> ScoringPlan:
    """Decides on the device and the number of processes for a cluster.

    Args:
        workers: processes that are wanted.
        gpus: of the nodes that are there. gpus_to_come: of all that may be started; None = not known.

    Raises:
        Unavailable: a GPU is wanted, and there is none and will be none.
        UserError: with auto, nodes may be started, and it is not known whether they have GPUs.
    """
    if wanted == "cpu":
        return ScoringPlan("cpu", 0, workers, "--device cpu")
    most = gpus if gpus_to_come is None else max(gpus, gpus_to_come)
    if most:
        fewer = gpus_to_come is not None and most < workers
        why = "a GPU each" if gpus else "a GPU each, for which nodes have to be started"
        return ScoringPlan("gpu", 1, min(workers, most) if fewer else workers, why)
    if gpus_to_come is None:
        if wanted == "gpu":
            return ScoringPlan("gpu", 1, workers, "a GPU each, for which nodes have to be started")
        raise UserError(
            "the cluster has no GPU now, starts nodes on demand, and does not say whether some have GPUs: "
            "choose --device gpu or --device cpu"
        )
    if wanted == "gpu":
        raise Unavailable("--device gpu: no node of the cluster has a GPU, and it starts none: choose auto or cpu")
    return ScoringPlan("cpu", 0, workers, "the cluster has no GPU")
