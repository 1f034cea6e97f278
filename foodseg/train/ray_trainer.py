"""Training on Ray: one worker group under Ray Train, restarted from the newest checkpoint when a part of it dies.

    run_training(config, resume=False, address=None)

foodseg writes and verifies its own checkpoints, straight to the run directory: Ray Train gets reports of them, but its
own snapshot is never what a run resumes from (it is not written atomically on a local disk).
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import ray.train
import torch
from ray.data import Dataset
from ray.exceptions import RayError
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

from foodseg import storage
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.checkpoint.run_layout import step_of
from foodseg.cluster.placement import Resources, fair_cpus, require_room, usable_workers, workers_in_words
from foodseg.cluster.ray_internals.core import release_lost_groups
from foodseg.cluster.ray_internals.train import TidyTrainer
from foodseg.cluster.ray_logs import RelayedLogs
from foodseg.cluster.ray_session import cores, data_cpus, living_nodes, nodes_may_come, ray_session
from foodseg.config import ExperimentConfig
from foodseg.config.load import with_settings
from foodseg.data.ray_stream import RankStream, stream_cpus, unit_dataset
from foodseg.data.sampler import TrainingOrder
from foodseg.errors import FoodsegError, RetryLater, Unavailable
from foodseg.predict.device import has_mps
from foodseg.storage.arrow_filesystem import ray_storage
from foodseg.storage.writer_lock import in_use
from foodseg.train.context import LocalContext, OnReport
from foodseg.train.loop import train
from foodseg.train.ray_elastic import Announcer, ElasticTrainer, ElasticWorkers
from foodseg.train.ray_failures import RefuseAtOnce, ctrl_c_interrupts, reason_of
from foodseg.train.ray_worker import BuildContext, LoopConfig, RayContext, ReportsTo, train_rank
from foodseg.train.results import TrainingResult
from foodseg.train.run import Run, begin_run, check_run

_log = logging.getLogger(__name__)

# glibc gives every large tensor back to the kernel and faults its pages in again at the next step; keeping the memory
# makes CPU training about 1.3 times faster
KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**34)}


def run_training(
    config: ExperimentConfig,
    *,
    resume: bool = False,
    address: str | None = None,
    build_context: BuildContext = RayContext,
    on_report: OnReport | None = None,
) -> TrainingResult:
    """Trains a run to its end; a killed run resumes from its newest checkpoint when called again with `resume`.

    Args:
        config: the whole configuration; `scaling.num_workers: 0` trains in this process.
        resume: resume the run in `run.uri` instead of refusing a directory that is not empty.
        address: Ray cluster to join; None starts one here, large enough for the workers and their data.
        build_context: makes the loop's context in each Ray worker (a benchmark passes one with other batches).
        on_report: called for every checkpoint: in this process with `num_workers: 0`, else in Ray's controller, to
            which it is pickled.

    Raises:
        UserError: anything in the configuration, the data or the cluster that cannot work, mostly before workers start.
        RetryLater: workers, storage or cluster were lost more often than train.max_failures.
        RuntimeError: workers failed because of an internal error; their trace is in the log.
        KeyboardInterrupt: Ctrl-C.
    """
    run = check_run(config, resume=resume)
    if run.config.scaling.num_workers == 0:
        context = LocalContext(run.config, run.manifest, run.reader, run.order, on_report)
        with in_use(run.config.run.uri, "run.uri"), _threads(run.config), context as local:
            begin_run(run, resume=resume)
            return train(run.config, run.manifest, run.total_steps, local, run.model)
    if run.config.scaling.use_gpu and address is None and not ray.is_initialized():
        _require_cuda()
    sizes = run.config.world_sizes
    alone = worker_resources(run.config)
    with ray_session(address, logical_cpus=int(max(sizes) * alone["CPU"]) + data_cpus()):
        nodes, fitting = list(living_nodes().values()), run.config
        if not nodes_may_come():
            fitting = with_decoders_that_fit(run.config, nodes)
        per_worker = worker_resources(fitting, None if address is None else nodes)
        if not nodes_may_come():
            require_room(nodes, per_worker, sizes, stream_cpus(fitting))
        with in_use(run.config.run.uri, "run.uri"):
            begin_run(run, resume=resume)
            run = replace(run, config=fitting, model=None, backbone=None)  # each worker builds its own
            return _fit_with_retries(run, per_worker, build_context, on_report)


def _require_cuda() -> None:
    """Refuses workers that would find no GPU on this machine, before Ray starts for them."""
    if torch.cuda.is_available():
        return
    if has_mps():
        raise Unavailable(
            "scaling.use_gpu is true, and the GPU of this machine is of the kind mps, which several workers cannot "
            "share: train in one process (scaling.num_workers=0), or set scaling.use_gpu=false"
        )
    raise Unavailable(
        "scaling.use_gpu is true, but torch finds no GPU here: set scaling.use_gpu=false, or join a cluster that has "
        "GPUs with --address"
    )


def with_decoders_that_fit(config: ExperimentConfig, nodes: Sequence[Resources]) -> ExperimentConfig:
    """Has a thread of each worker decode, unless it is set otherwise, where processes for it would cost workers."""
    if config.data.decode_processes is not None or not config.decoders:
        return config
    gpus = {"GPU": 1.0} if config.scaling.use_gpu else {}
    worker = {"CPU": 1.0, **gpus, **(config.scaling.resources_per_worker or {})}
    beside = {**worker, "CPU": worker["CPU"] + config.decoders}
    sizes, cpus_for_data = config.world_sizes, stream_cpus(config)
    if usable_workers(nodes, beside, sizes, cpus_for_data) == usable_workers(nodes, worker, sizes, cpus_for_data):
        return config
    _log.info("a thread of each worker decodes its images: the cluster has no CPU for a process beside it")
    return with_settings(config, {"data.decode_processes": 0})


def worker_resources(config: ExperimentConfig, nodes: Sequence[Resources] | None = None) -> dict[str, float]:
    """Returns the Ray resources of one worker: a CPU for each of its threads, and for each process that decodes for it.

    Args:
        nodes: resources of the joined cluster's nodes; None = this machine.
    """
    most = max(config.world_sizes)
    if config.scaling.use_gpu and nodes is not None:
        cpus = 1  # the others of a GPU's node can decode
    elif nodes is not None:
        cpus = max(1, fair_cpus(nodes, most, stream_cpus(config)) - config.decoders)
    else:
        cpus = max(1, cores() // most)
    gpus = {"GPU": 1.0} if config.scaling.use_gpu else {}
    found = {"CPU": float(cpus), **gpus, **(config.scaling.resources_per_worker or {})}
    return {**found, "CPU": found["CPU"] + config.decoders}


@contextlib.contextmanager
def _threads(config: ExperimentConfig) -> Iterator[None]:
    """A worker's CPUs are its threads, in this process too; without a setting it has torch's default."""
    before = torch.get_num_threads()
    if config.scaling.resources_per_worker is not None:
        torch.set_num_threads(max(1, int(config.scaling.resources_per_worker.get("CPU", 1))))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fit_with_retries(
    run: Run,
    per_worker: dict[str, float],
    build_context: BuildContext,
    on_report: OnReport | None,
) -> TrainingResult:
    """Ray restarts workers by itself; a failed *controller* (a storage error, say) ends `fit`, which is retried."""
    failures = 0
    while True:
        try:
            with RelayedLogs() as relay, ctrl_c_interrupts():
                result = _trainer(run, per_worker, build_context, on_report, relay).fit()
        except (TrainingFailedError, RayError, ConnectionError) as error:
            reason = reason_of(error)
            if isinstance(reason, FoodsegError) and not isinstance(reason, RetryLater):
                raise reason from None
            failures += 1
            if isinstance(error, WorkerGroupError) or failures > run.config.train.max_failures:
                if isinstance(reason, RetryLater):
                    raise type(reason)(
                        f"training failed: {reason}; once that is mended, run it again with --resume"
                    ) from None
                _log.error("%s", error)  # with the trace of the worker
                raise RuntimeError(f"training failed: {reason}") from None
            _log.warning("training failed (%s); resuming from the newest checkpoint", reason)
            time.sleep(min(30, 5 * failures))
            release_lost_groups()  # those of a controller that died
            continue
        assert isinstance(result.return_value, TrainingResult)
        return result.return_value


def _trainer(
    run: Run,
    per_worker: dict[str, float],
    build_context: BuildContext,
    on_report: OnReport | None,
    relay: str,
) -> TidyTrainer:
    config = run.config
    scaling = ray.train.ScalingConfig(
        num_workers=config.scaling.num_workers, use_gpu=config.scaling.use_gpu, resources_per_worker=per_worker
    )
    elastic, sizes = scaling.elasticity_enabled, config.world_sizes
    filesystem, path = ray_storage(storage.join(config.run.uri, "ray"))
    parts: dict[str, Any] = {
        "train_loop_per_worker": partial(train_rank, build_context=build_context),
        "train_loop_config": LoopConfig(config=config, manifest=run.manifest, total_steps=run.total_steps, relay=relay),
        "datasets": {"train": partial(_remaining_steps, run.order, config.run.uri, run.total_steps)},
        "dataset_config": RankStream(config, run.manifest, run.reader, run.order),
        "scaling_config": scaling,
        "run_config": ray.train.RunConfig(
            # a new name each time: an old snapshot of Ray's would be read, and may be incomplete
            name=time.strftime("attempt-%Y%m%d-%H%M%S"),
            storage_filesystem=filesystem,
            storage_path=path,
            failure_config=ray.train.FailureConfig(max_failures=config.train.max_failures),
            worker_runtime_env={} if config.scaling.use_gpu else {"env_vars": KEEP_MEMORY},
            callbacks=[
                RefuseAtOnce(),
                *([ReportsTo(on_report)] if on_report else []),
                Announcer(relay, workers_in_words(min(sizes), per_worker), None if elastic else max(sizes)),
            ],
        ),
    }
    if elastic:
        return ElasticTrainer(policy=ElasticWorkers(scaling, sizes, stream_cpus(config)), **parts)
    return TidyTrainer(**parts)


def _remaining_steps(order: TrainingOrder, run_uri: str, total_steps: int) -> Dataset:
    """Called by the controller at each start of a worker group: the steps after the run's newest checkpoint."""
    newest = newest_checkpoint(run_uri)
    return unit_dataset(order, step_of(newest) if newest else 0, total_steps)
