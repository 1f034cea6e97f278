"""`evaluate` with the choice of who counts: processes of a Ray cluster, or this one.

evaluate("runs/a", data="s3://bucket/foodmix", split="test", out="runs/a/test", workers=8, address="auto")
"""

from collections.abc import Sequence
from functools import partial

from foodseg.config.zero_shot import ZeroShotConfig
from foodseg.eval import evaluate as evaluation
from foodseg.eval.ray_score import score_on_ray
from foodseg.eval.result import EvaluationResult
from foodseg.eval.scoring_job import score_here
from foodseg.models.exported import Runtime
from foodseg.predict.device import Device
from foodseg.predict.refine import Refine


def evaluate(
    model: str | ZeroShotConfig | None,
    *,
    data: str,
    split: str,
    out: str,
    predictions: str | None = None,
    subsets: Sequence[str] = (),
    images: str | None = None,
    provided: str | None = None,
    space_map: str | None = None,
    classes: str | None = None,
    overrides: Sequence[str] = (),
    workers: int = 1,
    address: str | None = None,
    device: Device = "auto",
    refine: Refine = "none",
    sam: str | None = None,
    recheck: str | None = None,
    recheck_below: float | None = None,
    test_log: str | None = None,
    runtime: Runtime | None = None,
) -> EvaluationResult:
    """Scores a checkpoint, CLIP, or a folder of label maps, as `evaluate.evaluate` does; the arguments are the same.

    Args:
        workers: processes that score; 0 = this one, without Ray.
        address: Ray cluster to join; None = this machine.
        device: what a checkpoint computes on; auto = a GPU for each worker, if the cluster has or can start nodes with
            enough of them.

    Raises:
        UserError: also a cluster of which it is not known whether it can start nodes with GPUs.
    """
    return evaluation.evaluate(
        model, data, split, out=out, predictions=predictions, subsets=subsets, images=images,
        provided=provided, space_map=space_map, classes=classes, overrides=overrides, device=device, refine=refine,
        sam=sam, recheck=recheck, recheck_below=recheck_below, test_log=test_log, runtime=runtime,
        score=partial(score_on_ray, workers=workers, address=address) if workers else score_here,
    )  # fmt: skip
