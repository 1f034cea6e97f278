"""Two processes that begin to write the same thing at the same moment, each what its own number says.

    with RacingWriters() as writers:
        writers.race("run", "s3://bucket/run", data=data)     # [None, "the run directory s3://... is not empty: ..."]

A write is a generator: it prepares, yields, writes, yields while it holds what it has, and tidies up.
"""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch

from foodseg.errors import UserError
from foodseg.prepare.generations import next_generation, switch_to
from foodseg.storage.writer_lock import in_use
from foodseg.train.run import begin_run, check_run
from foodseg.tune import sweep_files
from tests.support.synthetic_set import synthetic_config
from tests.unit.prepare.test_generations import written


def run(uri: str, number: int, data: str) -> Iterator[None]:
    """A run directory, without the lock that commands hold meanwhile."""
    checked = check_run(synthetic_config(data, uri, f"train.seed={number}"), resume=False)
    yield
    begin_run(replace(checked, backbone={"number": torch.tensor([number])}), resume=False)
    yield


def sweep(uri: str, number: int) -> Iterator[None]:
    """The folder of a sweep, without the lock that commands hold meanwhile."""
    yield
    sweep_files.begin(uri, "sweep.yaml", {"sweep": {"seed": number}}, resume=False)
    yield


def resumed_run(uri: str, number: int, data: str) -> Iterator[None]:
    """A run directory as `train --resume` writes it; what may change on resume tells the two apart."""
    checked = check_run(synthetic_config(data, uri, f"train.max_failures={number}"), resume=True)
    yield
    with in_use(uri, "run.uri"):
        begin_run(checked, resume=True)
        yield


def resumed_sweep(uri: str, number: int) -> Iterator[None]:
    """The folder of a sweep as `tune --resume` writes it."""
    yield
    with in_use(uri, "sweep.uri"):
        sweep_files.begin(uri, "sweep.yaml", {"sweep": {"trials": number + 1}}, resume=True)
        yield


def generation(uri: str, number: int, overwrite: bool) -> Iterator[None]:
    """A generation of a prepared data set, whose one row is called by the number."""
    begun = next_generation(uri, overwrite, f"{number:x}" * 64)
    manifest = written(begun, str(number))
    yield
    switch_to(begun, manifest)
    yield


WRITES: dict[str, Any] = {write.__name__: write for write in (run, sweep, resumed_run, resumed_sweep, generation)}


class RacingWriters:
    """The two processes, numbers 0 and 1."""

    def __enter__(self) -> "RacingWriters":
        # both are forks of a process that has imported this file, which takes seconds, and has no threads
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        pipes = [context.Pipe() for _ in range(2)]
        self._ends = [ours for ours, _ in pipes]
        self._processes = [
            context.Process(target=_serve, args=(theirs, number), daemon=True)
            for number, (_, theirs) in enumerate(pipes)
        ]
        for process, (_, theirs) in zip(self._processes, pipes, strict=True):
            process.start()
            theirs.close()  # so that a process that has failed is noticed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def race(self, write: str, uri: str, **more: Any) -> list[str | None]:
        """Lets both write; returns for each None, or the sentence with which it was refused.

        Raises:
            EOFError: one has failed in another way; its trace is on stderr.
        """
        assert self._both((write, uri, more)) == ["ready", "ready"]
        outcomes = self._both("go")
        assert self._both("end") == ["ended", "ended"]
        return outcomes

    def _both(self, say: Any) -> list[Any]:
        for end in self._ends:
            end.send(say)
        return [end.recv() for end in self._ends]


def _serve(end: Connection, number: int) -> None:
    while True:
        name, uri, more = end.recv()
        write = WRITES[name](uri, number, **more)
        next(write)
        end.send("ready")
        end.recv()
        try:
            next(write)
            end.send(None)
        except UserError as error:
            end.send(str(error))
        end.recv()
        next(write, None)
        end.send("ended")
