"""A decoding process of `decode_ring.py`: reads orders from its standard input, and fills slots of shared memory.

    python -m foodseg.data.decode_process      # started by DecodeRing

It ends with its input: when the rank is gone, so is it. It imports neither torch nor Ray.
"""

import mmap
import os
import pickle
import queue
import signal
import sys
import threading
from typing import BinaryIO

import pyarrow as pa

from foodseg.data.augment.geometry import single_threaded_opencv
from foodseg.data.decode import decode_rows
from foodseg.data.decode_ring import Order, Setup
from foodseg.errors import FoodsegError

READ_AHEAD = 1  # orders that wait while one is decoded


def main() -> None:
    """Decodes until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the rank, which ends this process
    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    single_threaded_opencv()
    pa.set_cpu_count(1)
    try:
        setup: Setup = pickle.load(orders)
    except EOFError:
        return
    memory = mmap.mmap(setup.memory, setup.slots * setup.slot.size)
    os.close(setup.memory)
    waiting: queue.Queue[Order] = queue.Queue(READ_AHEAD)
    threading.Thread(target=_read, args=(orders, waiting), daemon=True).start()
    while True:
        pickle.dump(_fill(waiting.get(), setup, memory), answers)
        answers.flush()


def _read(orders: BinaryIO, waiting: "queue.Queue[Order]") -> None:
    """Takes orders while others are decoded, so that the rank's pipe is never full for long."""
    try:
        while True:
            waiting.put(pickle.load(orders))
    except (EOFError, OSError, pickle.UnpicklingError):
        os._exit(0)  # the rank is gone, and with it everybody who could want an answer


def _fill(order: Order, setup: Setup, memory: mmap.mmap) -> tuple[str, str] | None:
    """Decodes one micro-batch; returns None, or what went wrong."""
    try:
        rows = pa.ipc.open_stream(order.encoded).read_all()
        into = setup.slot.views(memory, order.slot, order.rows)
        decode_rows(rows, setup.augment, setup.manifest, setup.roi, into=into)
    except FoodsegError as error:
        return "user", str(error)
    except Exception as error:
        return "fault", f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    main()
