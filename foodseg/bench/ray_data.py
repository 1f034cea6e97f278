"""How fast the training stream delivers images, as a share of what this machine can decode.

    result = bench_data("data/foodmix", config, seconds=20)

The stream is the one that training reads (`data/ray_stream.py`), with one consumer that drops what it gets. It is
compared with the same decode and transforms in a bare loop on all cores, and with a torch DataLoader (`bare_data.py`).
"""

import logging
import os
import time
from contextlib import closing
from functools import partial

import ray
from ray.exceptions import RayError

from foodseg.bench.bare_data import decode_ceiling, encoded_rows, image_facts
from foodseg.bench.cpu_parts import CpuParts
from foodseg.bench.machine import machine_facts
from foodseg.bench.memory import PeakMemory
from foodseg.bench.results import DataBench, StreamRate
from foodseg.cluster.ray_session import cores, data_cpus, expected_failure, ray_session
from foodseg.config import ExperimentConfig, parse_config
from foodseg.config.load import config_hash
from foodseg.data.ray_batches import rank_batches
from foodseg.data.ray_stream import rank_stream, unit_dataset
from foodseg.data.reader import RowReader
from foodseg.data.sampler import TrainingOrder
from foodseg.data.shards import Manifest, read_manifest
from foodseg.data.training_rows import training_order
from foodseg.train.batch_size import micro_batch_size
from foodseg.train.batch_timeout import NO_PROGRESS_SECONDS, within
from foodseg.train.run import with_absolute_uris

_log = logging.getLogger(__name__)

_MOST_PER_CORE = 5000  # images per second, more than any core decodes: the stream must not end before the measurement


def bench_data(
    data_uri: str, config: ExperimentConfig, *, seconds: float = 20.0, address: str | None = None
) -> DataBench:
    """Measures the stream, the bare loop and the DataLoader, each for `seconds` of steady running.

    The loop and the loader run on this machine alone, so `address` should lead to a cluster of this one node.

    Args:
        data_uri: prepared data set; `data.train_splits` of it are read.
        config: `data`, `augment` and `train` are used.
    """
    tree = config.model_dump(mode="json")
    tree["data"] |= {"uri": data_uri, "uris": []}
    config = with_absolute_uris(parse_config(tree))
    manifest = read_manifest(config.data.uri)
    reader = RowReader(config.data.uri, manifest, config.data.train_splits)
    order = training_order(
        reader, config.data, config.train.seed, config.train.global_batch, paste=config.augment.paste
    )
    facts = machine_facts(cores())
    with ray_session(address, logical_cpus=data_cpus()):
        try:
            niceness = ray.get(ray.remote(num_cpus=0)(lambda: os.nice(0)).remote())
            with PeakMemory(with_this_process=True) as memory:  # it consumes the batches
                stream = _stream_rate(config, manifest, reader, order, seconds)
        except RayError as error:
            raise expected_failure(error) or error from None
    rows = encoded_rows(reader, order, micro_batch_size(config, world_size=1), config.augment, manifest)
    bare, loader = decode_ceiling(rows, cores(), seconds, niceness)
    return DataBench(
        stream=stream,
        memory=memory.peaks(),
        bare=bare,
        loader=loader,
        data=manifest.identity,
        config_hash=config_hash(config),
        train=len(reader),
        images=image_facts(rows),
        longest_side=config.augment.longest_side,
        crop=config.augment.crop,
        batch=rows.batch,
        niceness=niceness,
        machine=facts,
    )


def _stream_rate(
    config: ExperimentConfig, manifest: Manifest, reader: RowReader, order: TrainingOrder, seconds: float
) -> StreamRate:
    """The clock starts with the first batch: processes have started by then, and little is decoded ahead."""
    _log.info("stream: waiting for the first batch")
    started = time.perf_counter()
    steps = int(_MOST_PER_CORE * cores() * seconds / order.global_batch) + 1
    units = unit_dataset(order, 0, steps)
    encoded = config.data.decode == "rank"
    stream = rank_stream(
        units, reader, order, config.augment, manifest, world_size=1, roi=config.regions, encoded=encoded
    )
    (split,) = stream.streaming_split(1, equal=True)
    size = micro_batch_size(config, world_size=1)
    hold, watched = order.global_batch // size, partial(within, seconds=NO_PROGRESS_SECONDS)
    images, elapsed = 0, 0.0
    taken = rank_batches(split, config, manifest, size, hold, watched)  # as a training worker takes them
    with closing(taken) as batches:  # type: ignore[type-var]
        next(batches)
        first, parts = time.perf_counter(), CpuParts()
        _log.info("stream: first batch after %.1f s, measuring for %.0f s", first - started, seconds)
        for batch in batches:
            images += len(batch)
            elapsed = time.perf_counter() - first
            if elapsed >= seconds:
                break
        cpu = parts.microseconds_an_image(images)  # before the decoders end
    return StreamRate(
        images_per_second=images / elapsed,
        seconds=elapsed,
        images=images,
        seconds_to_first_batch=first - started,
        cpu_microseconds=cpu,
    )
