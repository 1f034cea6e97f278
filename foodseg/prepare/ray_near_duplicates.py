"""Near-duplicate groups of any number of images: thumbnails stay on storage in blocks, and tasks compare the blocks.

    groups, units = near_duplicate_groups(thumbnails, digests, generation)

The audit's shards hold the thumbnails. Tasks gather those of the rows that passed into blocks of BLOCK rows; each of
the next tasks compares one block with itself and all later ones. The driver holds a number for each row. A single block
is compared here. A killed command finds finished tasks again (`cluster/shard_plan.py`).
"""

import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from foodseg import storage
from foodseg.cluster.ray_shards import run_shards
from foodseg.cluster.shard_plan import READERS, Inputs, ShardPlan, ShardTask, plan_identity
from foodseg.prepare.audit_rows import read_thumbnails
from foodseg.prepare.generations import Generation
from foodseg.prepare.near_duplicates import Units, groups_of_equal_files, joined, linked_rows, unit_thumbnails

BLOCK = 4096  # rows: 3 MB of thumbnails, and 13 as float32
_KEPT_BLOCKS = 8  # in memory, of those that pairs across splits are looked up in


@dataclass(frozen=True, slots=True)
class AuditedRows:
    """Rows of one shard of the audit: its URI, and which rows of it passed."""

    uri: str
    rows: tuple[int, ...]


def near_duplicate_groups(
    audited: Iterable[AuditedRows], digests: np.ndarray, generation: Generation, block: int = BLOCK
) -> tuple[np.ndarray, Units]:
    """Groups images whose files are equal or whose thumbnails correlate above SAME_IMAGE, transitively.

    Args:
        audited: where the thumbnails of the rows are, in the order of the rows.
        digests: (N,) fixed-length bytes, of each row's file.
        block: rows that a task compares with others.

    Returns:
        (N,) int64, the smallest row number in each row's group; and what looks up thumbnails.
    """
    blocks = _blocks(audited, block)
    labels = groups_of_equal_files(digests)
    if len(blocks) <= 1:
        units = unit_thumbnails(_gathered(blocks[0])) if blocks else np.empty((0, 0), np.float32)
        i, j = linked_rows(units, units)
        return joined(labels, i % max(1, len(labels)), j % max(1, len(labels))), lambda rows: units[rows]
    where = ShardPlan(generation.work("thumbnails"), [_task(n, own, own) for n, own in enumerate(blocks)])
    run_shards(where, _encoded_block, _checked, "gathering thumbnails")
    uris = [where.where(task) for task in where.tasks]
    plan = ShardPlan(generation.work("near-duplicates"), [_task(n, own, uris[n:]) for n, own in enumerate(blocks)])
    found = run_shards(plan, partial(_links, block=block), lambda _, data: _array(data), "comparing images")
    for first, links in enumerate(found):
        labels = joined(labels, links[0] + first * block, links[1] + first * block)
    return labels, partial(_units, tuple(uris), block)


def _task(number: int, block: Sequence[AuditedRows], inputs: Inputs) -> ShardTask[Inputs]:
    own = plan_identity(f"{part.uri} {part.rows}" for part in block)
    return ShardTask(f"{number:05d}-{own[:12]}", inputs, sum(len(part.rows) for part in block))


def _blocks(audited: Iterable[AuditedRows], size: int) -> list[list[AuditedRows]]:
    """Cuts rows into blocks of `size`; only the last one is smaller."""
    blocks: list[list[AuditedRows]] = []
    room = 0
    for part in audited:
        rows = part.rows
        while rows:
            if not room:
                blocks.append([])
                room = size
            taken, rows = rows[:room], rows[room:]
            blocks[-1].append(AuditedRows(part.uri, taken))
            room -= len(taken)
    return blocks


def _gathered(block: Sequence[AuditedRows]) -> np.ndarray:
    """Returns (n, D) uint8, the thumbnails of a block."""
    with ThreadPoolExecutor(READERS) as pool:
        return np.concatenate(
            list(pool.map(lambda part: read_thumbnails(storage.read_bytes(part.uri), part.rows), block))
        )


def _encoded_block(block: Sequence[AuditedRows]) -> bytes:
    return _encoded(_gathered(block))


def _links(uris: Sequence[str], block: int) -> bytes:
    """Returns the links of the first of these blocks with all of them; rows are counted from its first row."""
    own = unit_thumbnails(_array(storage.read_bytes(uris[0])))
    found = []
    for number, uri in enumerate(uris):
        other = own if number == 0 else unit_thumbnails(_array(storage.read_bytes(uri)))
        rows = np.concatenate([np.arange(len(own)), number * block + np.arange(len(other))])
        found += [rows[side] for side in linked_rows(own, other)]
    return _encoded(np.stack([np.concatenate(found[0::2]), np.concatenate(found[1::2])]))


def _units(uris: tuple[str, ...], block: int, rows: np.ndarray) -> np.ndarray:
    """Looks up the unit thumbnails (n, D) float32 of rows."""
    found = None
    for number in np.unique(rows // block):
        thumbnails = _kept_block(uris[number])
        here = rows // block == number
        if found is None:
            found = np.empty((len(rows), thumbnails.shape[1]), np.float32)
        found[here] = unit_thumbnails(thumbnails[rows[here] % block])
    assert found is not None, "no row was asked for"
    return found


@lru_cache(_KEPT_BLOCKS)
def _kept_block(uri: str) -> np.ndarray:
    return _array(storage.read_bytes(uri))


def _encoded(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


def _array(data: bytes) -> np.ndarray:
    """Raises ValueError where the file is damaged."""
    try:
        return np.load(io.BytesIO(data), allow_pickle=False)
    except (EOFError, OSError) as error:
        raise ValueError(str(error)) from None


def _checked(block: Sequence[AuditedRows], data: bytes) -> None:
    rows = sum(len(part.rows) for part in block)
    if len(_array(data)) != rows:
        raise ValueError(f"it does not hold {rows} thumbnails")
