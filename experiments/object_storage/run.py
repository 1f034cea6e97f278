"""Does everything work from and to a bucket? `python -m experiments object_storage`."""

import time
from typing import Any

from experiments.foodmix import foodmix, scores_of, sets, stems, weights
from experiments.item_queue import Bench, Item
from tests.support.s3_server import S3Server

SMALL = (
    "train.steps=60", "train.checkpoint_every=20", "train.validate_every=30",
    "augment.longest_side=128", "augment.crop=128", "eval.longest_side=128",
)  # fmt: skip


def s3(bench: Bench) -> dict[str, Any]:
    """Everything from and to one bucket: prepare, train with two workers, evaluate, predict."""
    source = foodmix(bench)
    data, run = "s3://foodseg/foodmix", "s3://foodseg/runs/small"
    images = [source / "images" / f"{stem}.jpg" for stem in stems(source, "test")[:3]]
    with S3Server() as server:
        server.make_bucket("foodseg")
        environment = server.env()

        def timed(*arguments: object) -> tuple[dict[str, Any], float]:
            started = time.monotonic()
            answer = bench.foodseg(*arguments, env=environment)
            return answer, round(time.monotonic() - started, 1)

        prepared, prepare_seconds = timed("data", "prepare", source, data)
        where = (f"data.uri={data}", f"run.uri={run}", "scaling.num_workers=2", f"model.weights={weights(bench)}")
        trained, train_seconds = timed("train", "--config", "jobs/configs/smoke.yaml", *sets(*where, *SMALL))
        out = "s3://foodseg/scores/small"
        scored, evaluate_seconds = timed(
            "evaluate", run, "--data", data, "--split", "test", "--out", out, "--test-log", bench.test_log
        )
        labelled, predict_seconds = timed("predict", run, *images, "--out", bench.work / "labelled")
    return {
        "prepare_seconds": prepare_seconds,
        "train_seconds": train_seconds,
        "evaluate_seconds": evaluate_seconds,
        "predict_seconds": predict_seconds,
        "splits": prepared["splits"],
        "quarantined": prepared["quarantined"],
        "steps": trained["step"],
        "scores": scores_of(scored),
        "images_scored": scored["images"],
        "images_labelled": len(labelled["images"]),
    }


ITEMS: list[Item] = [("s3", s3)]
