"""What a rank makes of its split of the stream: batches, decoded here or on the cluster.

    for batch in rank_batches(split, config, manifest, micro_batch=8, hold=2, watched=iter):
        ...

A module of its own since it imports torch, which the processes that read the stream do without.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ray.data import DataIterator

from foodseg.config import ExperimentConfig
from foodseg.data.batch import AnyBatch, batch_of, decoded_batches
from foodseg.data.decode import encoded_block
from foodseg.data.shards import Manifest


def rank_batches(
    split: DataIterator,
    config: ExperimentConfig,
    manifest: Manifest,
    micro_batch: int,
    hold: int,
    watched: Callable[[Iterable[Any]], Iterator[Any]],
) -> Iterator[AnyBatch]:
    """Yields a rank's micro-batches from its split of the stream.

    Args:
        micro_batch, hold: as for `DecodeRing`. watched: passes on what it is given, with a limit on waiting.
    """
    if config.data.decode == "rank":
        tables = watched(split.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=1))
        yield from decoded_batches(map(encoded_block, tables), config, manifest, micro_batch, hold)
        return
    ready = split.iter_batches(batch_size=micro_batch, batch_format="numpy", prefetch_batches=1)
    for arrays in watched(ready):  # it reads one more batch ahead
        yield batch_of(arrays)
