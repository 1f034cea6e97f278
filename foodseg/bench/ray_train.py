"""How fast `foodseg train` is, as a share of a bare PyTorch loop under torchrun with the same threads.

    result = bench_train("data/foodmix", config, workers=2, steps=40)

(a) both on batches in memory: what the loop, the context and Ray Train cost. (b) both end to end: foodseg reads its
stream from Ray Data, the bare loop decodes with the same functions in a background thread of each process. Runs
alternate, and medians are compared, since timings are noisy. Ray runs only during foodseg's runs.
"""

import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from foodseg import storage
from foodseg.bench.feed import Clock, memory_batches, rate_between
from foodseg.bench.machine import machine_facts
from foodseg.bench.results import Runs, TrainBench, TrainShare
from foodseg.cluster.ray_session import cores
from foodseg.config import ExperimentConfig, parse_config
from foodseg.config.load import config_hash
from foodseg.data.batch import AnyBatch
from foodseg.data.shards import Manifest, read_manifest
from foodseg.errors import UserError
from foodseg.train.batch_size import micro_batch_size
from foodseg.train.ray_trainer import KEEP_MEMORY, run_training, worker_resources
from foodseg.train.ray_worker import RayContext
from foodseg.train.results import Report

_log = logging.getLogger(__name__)

WARMUP = 5  # updates: memory is taken and kernels are chosen in the first ones


class Ticks(NamedTuple):
    """The ticks of rank 0 of every run (`Clock`)."""

    foodseg: list[list[float]]
    bare: list[list[float]]


class StreamContext(RayContext):
    """The context of every training run, with a clock on its batches."""

    def __init__(self, config: ExperimentConfig, manifest: Manifest) -> None:
        super().__init__(config, manifest)
        self._clock = Clock()

    def batches(self, start_step: int, total_steps: int) -> Iterator[AnyBatch]:
        share = self._config.train.global_batch // self.world_size
        feed = self._feed(start_step, total_steps)
        return self._clock.watch(feed, share // micro_batch_size(self._config, self.world_size))

    def _feed(self, start_step: int, total_steps: int) -> Iterator[AnyBatch]:
        return super().batches(start_step, total_steps)

    def report(self, report: Report, checkpoint: str) -> None:
        if self.rank == 0:  # at the end of the run: there is one checkpoint, after the last step
            timing = {"ticks": self._clock.ticks, "niceness": os.nice(0)}
            storage.write_json(storage.join(self._config.run.uri, "timing.json"), timing)
        super().report(report, checkpoint)


class MemoryContext(StreamContext):
    """Batches that are in memory already."""

    def _feed(self, start_step: int, total_steps: int) -> Iterator[AnyBatch]:
        assert start_step == 0, start_step
        manifest = read_manifest(self._config.data.uri)
        return memory_batches(self._config, manifest, self.rank, self.world_size, total_steps)


def bench_train(
    data_uri: str,
    config: ExperimentConfig,
    *,
    workers: int = 2,
    steps: int = 40,
    rounds: int = 2,
    address: str | None = None,
) -> TrainBench:
    """Measures `foodseg train` and the bare loop in turn, `rounds` times each, from memory and end to end, on CPUs.

    The bare loop runs on this machine alone, so `address` should lead to a cluster of this one node.

    Args:
        data_uri: prepared data set; `data.train_splits` of it are read.
        config: model, crops, batch and optimizer. Validation, averaged weights and torch.compile are switched off, and
            the only checkpoint is written after the clock has stopped.
        workers: processes on either side; each gets its even share of the cores as threads.
        steps: updates that are timed.
        rounds: runs of each kind.

    Returns:
        From memory the clock starts after WARMUP updates. End to end it starts with the first batch, so that batches
        decoded ahead are not free; `steady_share` leaves the first updates out.

    Raises:
        UserError: `scaling.use_gpu` is set, the model has text fusion or a teacher, the batch cannot be split over the
            workers, or the data cannot be read.
    """
    if config.scaling.use_gpu:
        raise UserError("bench train compares CPU training over gloo: set scaling.use_gpu=false")
    if config.model.kind != "timm":
        raise UserError("bench train compares timm pyramids: set model.kind=timm")
    if config.model.fusion != "none" or config.model.ingredient_head or config.loss.needs_teacher:
        raise UserError(
            "bench train compares training on masks alone: set model.fusion=none, model.text.kind=none, "
            "model.ingredient_head=false and loss.distill=0"
        )
    if workers < 1 or steps < 1 or rounds < 1:
        raise UserError(f"workers, steps and rounds must be 1 or more, found {workers}, {steps} and {rounds}")
    facts = machine_facts(cores())
    identity = read_manifest(data_uri).identity
    runs: dict[str, Ticks] = {}
    with tempfile.TemporaryDirectory(prefix="foodseg-bench-") as folder:
        for kind in ("memory", "end_to_end"):
            runs[kind] = Ticks([], [])
            for index in range(rounds):
                _log.info("%s, round %d of %d: foodseg train", kind.replace("_", " "), index + 1, rounds)
                tried = _bench_config(data_uri, config, workers, steps, f"{folder}/{kind}-{index}")
                ticks, niceness = _run_foodseg(tried, kind, address)
                runs[kind].foodseg.append(ticks)
                _log.info("%s, round %d of %d: bare loop", kind.replace("_", " "), index + 1, rounds)
                runs[kind].bare.append(_run_torchrun(tried, kind, workers, niceness, Path(folder)))
    batch = config.train.global_batch
    return TrainBench(
        memory=_compare(runs["memory"], WARMUP, batch),
        end_to_end=_compare(runs["end_to_end"], 0, batch),
        steady_share=_compare(runs["end_to_end"], WARMUP, batch).share,
        steps=steps,
        rounds=rounds,
        workers=workers,
        threads_per_worker=_threads(tried),
        global_batch=batch,
        crop=config.augment.crop,
        backbone=config.model.encoders,
        data=identity,
        config_hash=config_hash(config),
        machine=facts,
    )


def _bench_config(data_uri: str, config: ExperimentConfig, workers: int, steps: int, run_uri: str) -> ExperimentConfig:
    total = WARMUP + steps + 1  # the clock stops when the last update has its batch
    tree = config.model_dump(mode="json")
    tree["data"] |= {"uri": storage.absolute(data_uri), "uris": [], "val_split": None}
    tree["model"]["weights"] = "none"  # speed does not depend on them
    if config.model.vit.backbone is not None:
        tree["model"]["vit"]["weights"] = "none"
    tree["train"] |= {"steps": total, "epochs": None, "checkpoint_every": total, "ema_horizon": 0,
                      "compile": False, "max_failures": 0, "mlflow_uri": None}  # fmt: skip
    tree["eval"]["weights"] = "student"
    tree["loss"] = {}  # plain cross entropy, which the bare loop has too
    tree["scaling"] = {"num_workers": workers, "resources_per_worker": {"CPU": max(1, cores() // workers)}}
    tree["run"]["uri"] = run_uri
    return parse_config(tree)


def _run_foodseg(config: ExperimentConfig, kind: str, address: str | None) -> tuple[list[float], int]:
    """Returns the ticks of rank 0, and the niceness of its process."""
    run_training(config, address=address, build_context=MemoryContext if kind == "memory" else StreamContext)
    timing = json.loads(storage.read_text(storage.join(config.run.uri, "timing.json")))
    return timing["ticks"], timing["niceness"]


def _run_torchrun(config: ExperimentConfig, kind: str, workers: int, niceness: int, folder: Path) -> list[float]:
    """Returns the ticks of rank 0; same threads, memory settings and priority as a worker of foodseg's."""
    path = folder / "bench.json"
    path.write_text(config.model_dump_json(), encoding="utf-8")
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers),
        "-m", "foodseg.bench.bare_train", "--config", str(path),
        "--feed", "memory" if kind == "memory" else "decode", "--niceness", str(niceness),
    ]  # fmt: skip
    environment = {**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": str(_threads(config))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the bare loop ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    printed = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    ticks = printed["ticks"]
    assert isinstance(ticks, list)
    return ticks


def _threads(config: ExperimentConfig) -> int:
    """A worker has as many threads as CPUs of its own."""
    return int(worker_resources(config)["CPU"]) - config.decoders


def _compare(runs: Ticks, warmup: int, batch: int) -> TrainShare:
    foodseg, bare = ([rate_between(ticks, warmup, batch) for ticks in every] for every in (runs.foodseg, runs.bare))
    medians = statistics.median(foodseg), statistics.median(bare)
    every = Runs(tuple(round(rate, 2) for rate in foodseg), tuple(round(rate, 2) for rate in bare))
    return TrainShare(*medians, share=medians[0] / medians[1], runs=every)
