"""Scores the rows of a split with several processes: each row once, also when processes are lost.

scored = merge_scored(score_on_ray(job, workers=8, address="auto"))
"""

import logging
import pickle
import warnings
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

from foodseg.cluster.ray_session import (
    causes,
    cores,
    expected_failure,
    gpus_to_come,
    line_of,
    living_nodes,
    ray_session,
)
from foodseg.errors import OutOfMemory, RetryLater
from foodseg.eval.scoring import Scored, score_rows
from foodseg.eval.scoring_job import ScoringJob
from foodseg.eval.scoring_plan import ScoringPlan, scoring_plan
from foodseg.predict.device import Device, device_name, has_mps, pick_device
from foodseg.progress import Progress

MAX_LOSSES = 3  # of scoring processes; one that needs too much memory is lost at every retry
_LOST = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
_log = logging.getLogger(__name__)


def score_on_ray(job: ScoringJob, *, workers: int, address: str | None) -> Iterator[Scored]:
    """Yields the counts of each part in their order, counted by `workers` processes."""
    job = job.for_workers(workers)
    with (
        Progress("scoring images", sum(map(len, job.parts))) as progress,
        ray_session(address, logical_cpus=max(workers, cores()) + 1),
    ):
        plan = _plan(job.device, min(workers, len(job.parts)))
        for counted, size in _score_on_ray(job, plan):
            yield counted
            progress.advance(size)


def _plan(device: Device | torch.device | None, workers: int) -> ScoringPlan:
    wanted: Device | None = ("cpu" if device.type == "cpu" else "gpu") if isinstance(device, torch.device) else device
    if wanted is None:
        return ScoringPlan("cpu", 0, workers, "label maps need no GPU")
    nodes = living_nodes().values()
    gpus, to_come = sum(int(node.get("GPU", 0)) for node in nodes), gpus_to_come()
    if wanted != "cpu" and not gpus and len(nodes) == 1 and has_mps():
        # Ray does not count this kind of GPU; all processes of its machine share it
        plan = ScoringPlan("gpu", 0, workers, "the GPU of this machine")
    else:
        plan = scoring_plan(wanted, workers, gpus=gpus, gpus_to_come=to_come)
    _log.info("%d scoring process%s: %s", plan.workers, "" if plan.workers == 1 else "es", plan.why)
    return plan


def _score_on_ray(job: ScoringJob, plan: ScoringPlan) -> Iterator[tuple[Scored, int]]:
    done = losses = 0
    while done < len(job.parts):
        try:
            for counted, size in _score_once(replace(job, parts=job.parts[done:]), plan):
                done += 1
                yield counted, size
        except ray.exceptions.RayError as error:
            expected = expected_failure(error)
            if expected is not None:
                raise expected from None
            lost = next((cause for cause in causes(error) if isinstance(cause, _LOST)), None)
            if lost is None:
                raise
            losses += 1
            if losses > MAX_LOSSES:
                kind = OutOfMemory if isinstance(lost, OutOfMemoryError) else RetryLater
                raise kind(f"{losses} scoring processes were lost, the last one with: {line_of(lost, 0)}") from None
            _log.warning("a scoring process was lost (%s): scoring what it had not finished again", line_of(lost, 0))


def _score_once(job: ScoringJob, plan: ScoringPlan) -> Iterator[tuple[Scored, int]]:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else a UserError loses its type and its message on the way here
    context.execution_options.preserve_order = True  # results in the order of the rows, whichever process was faster
    listed = ray.data.from_items([{"rows": part} for part in job.parts], override_num_blocks=len(job.parts))
    with warnings.catch_warnings():
        # Ray has no parameter of that name for max_restarts, and advises to use one
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        scored = listed.map_batches(
            _Scorer,
            fn_constructor_args=(job, plan.device),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            num_gpus=plan.gpus,
            compute=ActorPoolStrategy(size=min(plan.workers, len(job.parts))),
            # Ray Data restarts actors without end, and Ray Core logs a warning for each actor that may be restarted
            max_restarts=0,
        )
    seen: set[str] = set()
    for table in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
        for row in table.to_pylist():
            if job.device is not None and row["process"] not in seen:
                seen.add(row["process"])
                _log.info("scoring process %d of %d computes on %s", len(seen), plan.workers, row["device"])
            yield pickle.loads(row["counts"]), row["size"]


class _Scorer:
    """One scoring process; loads the model once."""

    def __init__(self, job: ScoringJob, device: Device) -> None:
        self._job, self._labeller = job, job.build(device)
        here = ray.get_runtime_context()
        self._process = here.get_actor_id()
        self._device = f"{device_name(pick_device(device))} of {ray.util.get_node_ip_address()}"

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = [row for part in table.column("rows").to_pylist() for row in part]
        counted = score_rows(self._job.reader, rows, self._labeller, self._job.space)
        return pa.table(
            {
                "counts": pa.array([pickle.dumps(counted)], pa.large_binary()),
                "size": [len(rows)],
                "process": [self._process],
                "device": [self._device],
            }
        )
