"""Step 1, "Show it": the spine on object storage, parity with the peer, speed, kills, bad input."""

import json
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

from foodseg.data.shards import read_manifest, write_manifest
from proof.proof_queue import Bench, Item, ItemError, write_json

SEEDS = (0, 1)
PARITY_STEPS = 1180  # train.steps of parity.yaml
SUBSETS = ("headline", "core", "soy")
SMALL = (
    "train.steps=60", "train.checkpoint_every=20", "train.validate_every=30",
    "augment.longest_side=128", "augment.crop=128", "eval.longest_side=128",
)  # fmt: skip


def s3(bench: Bench) -> dict[str, Any]:
    """Everything from and to one bucket: prepare, train with two workers, evaluate, predict."""
    from tests.support.s3_server import S3Server

    source = foodmix(bench)
    data, run = "s3://foodseg/foodmix", "s3://foodseg/runs/proof"
    stems = (source / "test.txt").read_text(encoding="utf-8").split()[:3]
    images = [source / "images" / f"{stem}.jpg" for stem in stems]
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
        out = "s3://foodseg/scores/proof"
        scored, evaluate_seconds = timed("evaluate", run, "--data", data, "--split", "test", "--out", out)
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


def parity(bench: Bench) -> dict[str, Any]:
    """The peer and ours under one recipe, two seeds each; what is trained already is reused."""
    data = prepared_foodmix(bench)
    subsets = [word for name in SUBSETS for word in ("--subset", foodmix(bench) / f"{name}_classes.txt")]
    figures: dict[str, Any] = {}
    for seed in SEEDS:
        peer, ours = bench.work / f"peer-{seed}", bench.work / f"ours-{seed}"
        timing = {"peer": _train_peer(bench, peer, seed), "ours": train_ours(bench, ours, data, seed)}
        scored = {}
        for name, what in (("peer", ["--predictions", peer / "predictions"]), ("ours", [ours])):
            out = bench.work / f"scores-{name}-{seed}"
            answer = bench.foodseg("evaluate", *what, "--data", data, "--split", "test", "--out", out, *subsets)
            scored[name] = scores_of(answer)
        sides = (bench.work / f"scores-{name}-{seed}" for name in ("ours", "peer"))
        difference = bench.foodseg("evaluate", "--compare", *sides, *subsets)
        figures[f"seed {seed}"] = {
            "scores": scored,
            "ours_minus_peer": {key: difference[key] for key in ("miou", "subsets")},
            "training": timing,
        }
    return figures


def bench_data(bench: Bench) -> dict[str, Any]:
    """Streamed images per second."""
    return bench.foodseg("bench", "data", "--data", prepared_foodmix(bench), "--config", "jobs/configs/foodmix.yaml")


def memory(bench: Bench) -> dict[str, Any]:
    """Peak memory of the stream over the real images, and over a set that lists them ten times."""
    once, tenfold = prepared_foodmix(bench), bench.work / "foodmix-tenfold"
    manifest = read_manifest(str(once))
    listed = manifest.model_copy(update={"name": "foodmix-tenfold", "shards": ()})
    for number in range(10):
        for shard in manifest.shards:
            copy = shard.model_copy(update={"path": f"v-1/{number}/{shard.path}"})
            (tenfold / copy.path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(once / shard.path, tenfold / copy.path)
            listed = listed.model_copy(update={"shards": (*listed.shards, copy)})
    write_manifest(str(tenfold), listed)
    figures = {}
    for name, data in (("once", once), ("tenfold", tenfold)):
        found = bench.foodseg("bench", "data", "--data", data, "--config", "jobs/configs/foodmix.yaml")
        figures[name] = {"images": found["images"]["train"], **found["stream"]}
    shutil.rmtree(tenfold)
    return figures


def bench_train(bench: Bench) -> dict[str, Any]:
    """Training speed compared with a bare loop."""
    return bench.foodseg("bench", "train", "--data", prepared_foodmix(bench), "--config", "jobs/configs/foodmix.yaml")


def kills(bench: Bench) -> dict[str, Any]:
    """Killed workers, drivers and servers, torn checkpoints."""
    return run_tests(bench, "tests/integration/test_faults.py")


def bad_input(bench: Bench) -> dict[str, Any]:
    """Common mistakes: one sentence and an exit code each."""
    return run_tests(bench, "tests/e2e/test_bad_input.py")


ITEMS: list[Item] = [
    ("s3", s3),
    ("parity", parity),
    ("bench_data", bench_data),
    ("memory", memory),
    ("bench_train", bench_train),
    ("kills", kills),
    ("bad_input", bad_input),
]


def foodmix(bench: Bench) -> Path:
    folder = bench.shared / "datasets" / "foodmix"
    if not folder.is_dir():
        raise ItemError(f"shared data missing: {folder}; set FOODSEG_SHARED")
    return folder


def weights(bench: Bench) -> Path:
    return bench.shared / "weights" / "tf_efficientnet_lite0.safetensors"


def prepared_foodmix(bench: Bench) -> Path:
    """The real images as local shards, made once."""
    data = bench.work / "foodmix"
    if not (data / "dataset.json").exists():
        bench.foodseg("data", "prepare", foodmix(bench), data)
    return data


def _train_peer(bench: Bench, out: Path, seed: int) -> dict[str, Any]:
    # seconds.json is the last thing that the peer writes
    command = ("proof/peer.py", "--data", foodmix(bench), "--weights", weights(bench), "--seed", seed)
    if not (out / "seconds.json").exists():
        bench.python(*command, "--out", out)
    return json.loads((out / "seconds.json").read_text(encoding="utf-8"))


def train_ours(bench: Bench, out: Path, data: Path, seed: int) -> dict[str, Any]:
    """Trains or resumes one run; its seconds over all attempts of this queue are kept in a file next to it."""
    last, timing = out / "last.json", out.with_name(f"{out.name}-seconds.json")
    if last.exists() and json.loads(last.read_text(encoding="utf-8"))["step"] >= PARITY_STEPS:
        return json.loads(timing.read_text(encoding="utf-8")) if timing.exists() else {"train_seconds": None}
    settings = sets(f"train.seed={seed}", f"data.uri={data}", f"run.uri={out}", f"model.weights={weights(bench)}")
    resumed = (out / "config.yaml").exists()
    command = ["train", "--config", "proof/parity.yaml", *settings, *(["--resume"] if resumed else [])]
    _measured(timing, resumed, lambda: bench.foodseg(*command))
    return json.loads(timing.read_text(encoding="utf-8"))


def _measured(timing: Path, resumed: bool, work: Callable[[], object]) -> None:
    """Adds the seconds of `work` to the file `timing`, also when it fails."""
    before = json.loads(timing.read_text(encoding="utf-8"))["train_seconds"] if resumed and timing.exists() else 0
    started = time.monotonic()
    try:
        work()
    finally:
        write_json(timing, {"train_seconds": round(before + time.monotonic() - started, 1), "resumed": resumed})


def sets(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


def scores_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """All scores but those of the single classes, which are in the metrics.json of the evaluation."""
    summary = {name: value for name, value in metrics["scores"].items() if name != "classes"}
    return {"config_hash": metrics.get("config_hash"), **summary}


def run_tests(bench: Bench, *paths: str) -> dict[str, Any]:
    """Runs tests that must all pass; CI=true makes a missing S3 server a failure instead of a skip."""
    report = bench.work / f"{Path(paths[0]).stem}.xml"
    bench.python("-m", "pytest", "-q", *paths, f"--junitxml={report}", env={"CI": "true"})
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
    if skipped or not cases:
        raise ItemError(
            f"{paths[0]}: {len(skipped)} of {len(cases)} tests were skipped: {', '.join(map(str, skipped))}"
        )
    return {"passed": len(cases), "tests": [case.get("name") for case in cases]}
