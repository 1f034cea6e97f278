"""The training stream on Ray Data: every position once, in order, to the rank that it belongs to.

    units of steps -> read whole windows of rows (encoded) -> one row per block [-> decode] -> split to the ranks

Ray deals whole blocks to the ranks in turn. So each block holds one rank's rows for S consecutive steps
(`sampler.rank_blocks`). It travels through the first stages as a single row that holds the encoded images, since Ray
merges and cuts blocks of several rows as it likes but never cuts a row. With `data.decode` = rank it is decoded where
it arrives (`decode_ring.py`), so that no pixel crosses processes; else a last stage turns each such row into exactly
one block of decoded crops.
"""

import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa
import ray
import ray.train
from ray.data import DataContext, Dataset, ExecutionOptions

from foodseg.cluster.ray_internals.data import ExecutionCallback
from foodseg.cluster.ray_shared import Shared
from foodseg.config import ExperimentConfig
from foodseg.config.augment import AugmentConfig
from foodseg.config.roi import RoiConfig
from foodseg.data.decode import decode_block, encode_units
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import Manifest

DECODE_CPUS = 0.99  # not 1: tasks of equal resources are fused, and one task would then decode a whole unit of steps
BLOCK_BYTES = 64 * 2**20  # of decoded images and masks: starting a task costs little compared with decoding as many
ENCODED_BYTES = 4 * 2**20  # of encoded rows in a block: what a rank waits for before it decodes the first
MOST_ROWS = 256  # in a block, however small the crops
ROUND_SECONDS = 0.05  # a round costs 2 ms, and decoding a block takes five times as long as this


class PacedScheduling(ExecutionCallback):
    """Lets Ray Data's scheduling loop begin a round every ROUND_SECONDS at most.

    The loop waits for running tasks only, and its round is then as long as that. While a slow consumer blocks the
    stream there are none, and the loop would spin: half a core taken from the training that it waits for (seen with
    py-spy on Ray 2.60).
    """

    def __init__(self) -> None:
        self._began = time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(max(0.0, self._began + ROUND_SECONDS - time.monotonic()))
        self._began = time.monotonic()


class RankStream(ray.train.DataConfig):
    """Splits the stream between the workers of Ray Train, once their number is known."""

    def __init__(self, config: ExperimentConfig, manifest: Manifest, reader: RowReader, order: TrainingOrder) -> None:
        super().__init__()
        self._augment, self._manifest, self._reader, self._order = config.augment, manifest, reader, order
        self._roi, self._encoded = config.regions, config.data.decode == "rank"

    def configure(
        self, datasets: dict[str, Dataset], world_size: int, *args: Any, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """Called by Ray Train at each start of a worker group, with the units of `unit_dataset`."""
        stream = rank_stream(
            datasets["train"], self._reader, self._order, self._augment, self._manifest, world_size, self._roi,
            encoded=self._encoded,
        )  # fmt: skip
        return [{"train": split} for split in stream.streaming_split(world_size, equal=True)]


def unit_dataset(order: TrainingOrder, start_step: int, total_steps: int) -> Dataset:
    """Lists units of steps; their borders are at multiples of the order's unit, so that windows are read once."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else a UserError would lose its type and message
    context.target_max_block_size = None  # a task's output is one block, whatever its size
    context.execution_options = ExecutionOptions(preserve_order=True)
    # it would count pauses of the consumer too; that of `train/batch_timeout.py` does not
    context.execution_no_progress_timeout_s = -1
    context.custom_execution_callback_classes = [PacedScheduling]
    steps = order.unit // order.global_batch
    borders = [start_step, *(b for b in range(0, total_steps, steps) if b > start_step), total_steps]
    units = [{"start": a, "stop": b} for a, b in pairwise(borders) if a < b]
    return ray.data.from_items(units, override_num_blocks=max(1, len(units)))


def rank_stream(
    units: Dataset,
    reader: RowReader,
    order: TrainingOrder,
    augment: AugmentConfig,
    manifest: Manifest,
    world_size: int,
    roi: RoiConfig | None = None,
    *,
    encoded: bool = False,
) -> Dataset:
    """Returns the dataset whose blocks are, in turn, the rows of rank 0, 1, ... for S steps each."""
    # reading has the same resources as `repartition`, so that Ray fuses the two into one task: each block of encoded
    # rows is passed on as soon as it is read, without another copy
    encode = partial(
        _encode, shared=Shared((reader, order)), world_size=world_size,
        rows_per_block=_encoded_rows(reader, order) if encoded else _decoded_rows(augment, roi),
    )  # fmt: skip
    blocks = units.map_batches(encode, batch_size=1, batch_format="pyarrow").repartition(target_num_rows_per_block=1)
    if encoded:
        return blocks
    # decoding needs the classes and the sources, which do not grow with the data
    without_shards = manifest.model_copy(update={"shards": ()})
    decode = partial(decode_block, augment=augment, manifest=without_shards, roi=roi)
    return blocks.map_batches(decode, batch_size=None, batch_format="pyarrow", num_cpus=DECODE_CPUS)


def _encode(
    units: pa.Table, shared: Shared[tuple[RowReader, TrainingOrder]], world_size: int, rows_per_block: int
) -> Iterator[pa.Table]:
    reader, order = shared.get()
    yield from encode_units(units, reader, order, world_size, rows_per_block)


def stream_cpus(config: ExperimentConfig) -> int:
    """CPUs that the stream needs: to read, and to decode on the cluster, so that neither waits for the other."""
    return 1 if config.data.decode == "rank" else 2


def _encoded_rows(reader: RowReader, order: TrainingOrder) -> int:
    row_bytes = sum(shard.size for shard in reader.shards) / len(reader) * (1 + order.paste)
    return max(1, min(MOST_ROWS, int(ENCODED_BYTES / row_bytes)))


def _decoded_rows(augment: AugmentConfig, roi: RoiConfig | None) -> int:
    channels = 4 if roi is None else 3 * roi.view_count  # of uint8: image and mask, or views
    return max(1, min(MOST_ROWS, BLOCK_BYTES // (channels * augment.crop**2)))
