"""Decodes a rank's images in processes of its own, into shared memory that both map: no pixel is copied or sent.

    with DecodeRing(config.augment, manifest, roi, processes=2, hold=4) as ring:
        for arrays in ring.batches(blocks, micro_batch=8):   # views of a slot
            ...

A slot has the arrays of one micro-batch. The micro-batches of the encoded blocks go to the processes in turn, and come
back in their order. A slot is filled again once `hold` later micro-batches were taken: what an update holds stays.

The memory has no name, so that nothing is left behind when the rank is killed; the processes end with the pipe that
they read from. They are started afresh, never forked: a fork of a process with threads and a GPU may hang.

Shape letters: none of its own; arrays are those of `decode_rows`.
"""

import contextlib
import mmap
import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from foodseg.config.augment import AugmentConfig
from foodseg.config.roi import RoiConfig
from foodseg.data.decode import decode_rows, to_ipc
from foodseg.data.shards import Manifest
from foodseg.errors import FoodsegError, RetryLater, UserError

AHEAD = 2  # micro-batches for each process beyond those that are held: one that it decodes, one that is ready
ALIGNMENT = 64
END_SECONDS = 10.0


@dataclass(frozen=True)
class Slot:
    """Where each array of a micro-batch is: offset, shape without the first axis, dtype.

    rows: that fit in. size: bytes.
    """

    arrays: Mapping[str, tuple[int, tuple[int, ...], str]]
    rows: int
    size: int

    @classmethod
    def of(cls, empty: Mapping[str, np.ndarray], rows: int) -> "Slot":
        """Lays out arrays like these, of no rows, for `rows` rows."""
        at, arrays = 0, {}
        for name, array in empty.items():
            arrays[name] = (at, array.shape[1:], array.dtype.str)
            length = rows * int(np.prod(array.shape[1:], dtype=np.int64)) * array.dtype.itemsize
            at += -(-length // ALIGNMENT) * ALIGNMENT
        return cls(arrays, rows, -(-at // mmap.PAGESIZE) * mmap.PAGESIZE)

    def views(self, memory: mmap.mmap, index: int, rows: int) -> dict[str, np.ndarray]:
        """Returns the arrays of slot number `index`, the first `rows` rows of them."""
        start = index * self.size
        return {
            name: np.ndarray((rows, *shape), dtype, memory, start + at)
            for name, (at, shape, dtype) in self.arrays.items()
        }


@dataclass(frozen=True)
class Setup:
    """What a decoding process reads first."""

    memory: int  # file descriptor
    slots: int
    slot: Slot
    augment: AugmentConfig
    manifest: Manifest
    roi: RoiConfig | None


@dataclass(frozen=True)
class Order:
    """One micro-batch: its encoded rows as an Arrow stream, and the slot that it goes to."""

    slot: int
    rows: int
    encoded: bytes


class DecodeRing:
    """The processes and the memory; used within `with`, by one thread."""

    def __init__(
        self, augment: AugmentConfig, manifest: Manifest, roi: RoiConfig | None, *, processes: int, hold: int
    ) -> None:
        """Starts nothing yet.

        Args:
            roi: where regions are learned. processes: at least 1.
            hold: micro-batches that the consumer still uses while it asks for the next one.
        """
        self._augment, self._manifest, self._roi = augment, manifest, roi
        self._count, self._hold = processes, hold
        self._processes: list[subprocess.Popen[bytes]] = []
        self._memory: mmap.mmap | None = None
        self._left = threading.Event()

    def __enter__(self) -> "DecodeRing":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes. Arrays that were handed out stay valid as long as somebody holds them."""
        self._left.set()
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._processes = []

    def batches(self, blocks: Iterable[pa.Table], micro_batch: int) -> Iterator[dict[str, np.ndarray]]:
        """Yields the arrays of each micro-batch of the blocks, in order.

        Args:
            blocks: encoded rows, as `encode_rows` returns them; read in a thread of its own.
            micro_batch: rows of a micro-batch; the last one of a block may have fewer.

        Raises:
            UserError: a row cannot be decoded. RetryLater: a decoding process was killed. Whatever `blocks` raises.
        """
        slots = self._hold + AHEAD * self._count
        free: queue.Queue[int] = queue.Queue()
        sent: queue.Queue[tuple[int, int, int] | BaseException | None] = queue.Queue()
        for index in range(slots):
            free.put(index)
        feeder = threading.Thread(
            target=self._feed, args=(iter(blocks), micro_batch, slots, free, sent), daemon=True, name="feeds decoders"
        )
        feeder.start()
        held: list[int] = []
        try:
            while (order := sent.get()) is not None:
                if isinstance(order, BaseException):
                    raise order
                process, slot, rows = order
                self._answer(process)
                assert self._memory is not None
                held.append(slot)
                if len(held) > self._hold:
                    free.put(held.pop(0))
                yield self._slot.views(self._memory, slot, rows)
        finally:
            self._left.set()
            feeder.join(END_SECONDS)

    def _feed(
        self, blocks: Iterator[pa.Table], micro_batch: int, slots: int, free: "queue.Queue[int]",
        sent: "queue.Queue[tuple[int, int, int] | BaseException | None]",
    ) -> None:  # fmt: skip
        """Hands the micro-batches to the processes in turn, as slots become free."""
        number = 0
        try:
            for block in blocks:
                if not self._processes:
                    self._start(block, micro_batch, slots)
                for start in range(0, block.num_rows, micro_batch):
                    part = block.slice(start, micro_batch)
                    slot = self._wait(free)
                    if slot is None:
                        return
                    process = number % self._count
                    _send(self._pipe(process, "stdin"), Order(slot, part.num_rows, to_ipc(part)))
                    sent.put((process, slot, part.num_rows))
                    number += 1
            sent.put(None)
        except BaseException as error:
            sent.put(_killed() if isinstance(error, BrokenPipeError) else error)

    def _wait(self, free: "queue.Queue[int]") -> int | None:
        while not self._left.is_set():
            with contextlib.suppress(queue.Empty):
                return free.get(timeout=0.5)
        return None

    def _start(self, block: pa.Table, micro_batch: int, slots: int) -> None:
        empty = decode_rows(block.slice(0, 0), self._augment, self._manifest, self._roi)
        self._slot = Slot.of(empty, micro_batch)
        descriptor = _nameless_memory(slots * self._slot.size)
        try:
            self._memory = mmap.mmap(descriptor, slots * self._slot.size)
            setup = Setup(descriptor, slots, self._slot, self._augment, self._manifest, self._roi)
            for _ in range(self._count):
                process = subprocess.Popen(
                    [sys.executable, "-m", "foodseg.data.decode_process"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                )  # fmt: skip
                self._processes.append(process)
                _send(process.stdin, setup)  # type: ignore[arg-type]
        finally:
            os.close(descriptor)  # it stays mapped, here and in the processes

    def _answer(self, process: int) -> None:
        """Waits until a process has filled its slot."""
        try:
            answer = pickle.load(self._pipe(process, "stdout"))
        except (EOFError, pickle.UnpicklingError, OSError, ValueError):
            raise _killed() from None
        if answer is not None:
            kind, text = answer
            raise UserError(text) if kind == "user" else RuntimeError(text)

    def _pipe(self, process: int, name: str) -> BinaryIO:
        pipe: Any = getattr(self._processes[process], name)
        return pipe


def _killed() -> FoodsegError:
    return RetryLater(
        "a process that decodes images has ended: it was killed, by the operating system where memory was short; run "
        "it again with --resume"
    )


def _send(pipe: BinaryIO, value: object) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def _nameless_memory(size: int) -> int:
    """Returns a file descriptor of so many bytes of memory, every page of which is there already.

    Raises:
        RetryLater: there is not enough.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("foodseg-decode-ring")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:  # macOS: a file without a name
            descriptor = os.dup(file.fileno())
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)  # now, rather than a signal at the first write
        else:
            os.truncate(descriptor, size)
    except OSError as error:
        os.close(descriptor)
        raise RetryLater(
            f"{size / 2**20:,.0f} MiB of shared memory for decoded images cannot be had ({error.strerror}): lower "
            "data.decode_processes, augment.crop or train.micro_batch"
        ) from None
    return descriptor
