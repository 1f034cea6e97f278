"""Plans of tasks whose results are files, so that a command that was killed resumes with the tasks that are left.

    identity = plan_identity(["audit", "1", *map(repr, records)])
    plan = ShardPlan(storage.join(uri, f"v-1-{identity[:12]}", ".work", "audit"), tasks)
    results = run_shards(plan, write, read, "checking images")                # ray_shards.py

Each task writes one file, its shard, at `<folder>/<key>`, and only where there is none: of two processes that do the
same task, one writes, and the other takes what that one wrote. The folder is named after the identity of the plan, so
that shards of other inputs, settings or code are never taken for its own. Whoever runs a plan writes a manifest of its
results last, and then deletes the folder.

Shards are typed files (Parquet, JSON): what is read back from a bucket is never unpickled.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from foodseg import storage
from foodseg.errors import MissingFile, RetryLater

READERS = 16  # threads: reading many small objects is mostly waiting
_AT_ONCE = 4 * READERS  # shards that are in memory, of any number

_log = logging.getLogger(__name__)
Inputs = TypeVar("Inputs")
Input = TypeVar("Input")
Result = TypeVar("Result")


@dataclass(frozen=True)
class ShardTask(Generic[Inputs]):
    """One task: `key` names its shard, `inputs` is what it gets, `items` is how much of the progress it is."""

    key: str
    inputs: Inputs
    items: int = 1


@dataclass(frozen=True)
class ShardPlan(Generic[Inputs]):
    """Tasks with distinct keys, in the order of their results; `folder`: URI that holds their shards and no others."""

    folder: str
    tasks: Sequence[ShardTask[Inputs]]

    def where(self, task: ShardTask[Inputs]) -> str:
        """Returns the URI of the shard of a task."""
        return storage.join(self.folder, task.key)


def plan_identity(parts: Iterable[str]) -> str:
    """Returns 64 hex digits that depend on each part and on their order: inputs, settings, version of the code."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def create_or_take(uri: str, data: bytes) -> bytes:
    """Writes a shard where there is none; returns what is there: `data`, or what another process wrote first.

    Raises:
        UserError: it cannot be written or read. RetryLater: the storage does not answer.
    """
    return data if storage.create_bytes(uri, data) else _read(uri) or data


def stored_results(plan: ShardPlan[Inputs], read: Callable[[Inputs, bytes], Result]) -> dict[int, Result]:
    """Returns the results of the tasks that are done, by their number. A damaged shard is deleted: it is made again.

    Args:
        read: makes the result of inputs and shard; ValueError where the shard is not one of these inputs.

    Raises:
        UserError, RetryLater: the folder cannot be read.
    """
    there = set(storage.list_names(plan.folder))
    numbers = [number for number, task in enumerate(plan.tasks) if task.key in there]
    results = {}
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(numbers), _AT_ONCE):
            some = numbers[start : start + _AT_ONCE]
            for number, data in zip(some, pool.map(lambda n: _read(plan.where(plan.tasks[n])), some), strict=True):
                if data is None:
                    continue
                task = plan.tasks[number]
                try:
                    results[number] = read(task.inputs, data)
                except ValueError as error:
                    where = plan.where(task)
                    _log.warning("%s is damaged (%s): it is deleted and made again", storage.redact(where), error)
                    storage.delete(where)
    return results


def _read(uri: str) -> bytes | None:
    """Returns a shard; None where another process, which has come to the end of the plan, has just deleted it."""
    try:
        return storage.read_bytes(uri)
    except MissingFile:
        return None


def one_row_each(
    inputs: Iterable[Input], row: Callable[[Input], Result], refusal: Callable[[Input, Exception], Result]
) -> list[Result]:
    """Returns one row for each input, in order: what `row` makes of it, or the refusal of an input that it fails on.

    Raises:
        RetryLater, MemoryError: from `row`; they are no fault of the input, and end the task.
    """
    rows = []
    for one in inputs:
        try:
            rows.append(row(one))
        except (RetryLater, MemoryError):
            raise
        except Exception as error:  # whatever it is, the input has to have a row
            rows.append(refusal(one, error))
    return rows
