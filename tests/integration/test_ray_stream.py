"""The stream on Ray Data: every rank gets its positions, in order, each once."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from foodseg.config.augment import AugmentConfig
from foodseg.config.data import DataConfig
from foodseg.data import ray_stream
from foodseg.data.decode import decode_rows, encode_rows, encoded_block, make_batch_arrays
from foodseg.data.ray_stream import rank_stream, unit_dataset
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.data.training_rows import held_out_rows, training_order
from tests.support.soft_label_set import soft_labels_of_masks
from tests.support.synthetic_set import write_synthetic

BATCH, STEPS = 6, 40
AUGMENT = AugmentConfig(longest_side=48, crop=32)


@pytest.fixture(autouse=True)
def several_blocks_for_each_rank(monkeypatch) -> None:
    monkeypatch.setattr(ray_stream, "MOST_ROWS", 16)


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> RowReader:
    uri = write_synthetic(tmp_path_factory.mktemp("stream") / "prepared")
    return RowReader(uri, read_manifest(uri), ["train", "val"])


def batches(
    reader: RowReader,
    world_size: int,
    start_step: int,
    augment: AugmentConfig = AUGMENT,
    data: DataConfig | None = None,
    encoded: bool = False,
) -> list[list[dict[str, np.ndarray]]]:
    """Returns every batch that each rank received from the stream."""
    manifest = read_manifest(reader.uri)
    order = training_order(reader, data or DataConfig(uri=reader.uri), seed=3, global_batch=BATCH)
    units = unit_dataset(order, start_step, STEPS)
    stream = rank_stream(units, reader, order, augment, manifest, world_size, encoded=encoded)

    def drain(split) -> list[dict[str, np.ndarray]]:
        if encoded:
            size = BATCH // world_size
            blocks = [encoded_block(each) for each in split.iter_batches(batch_size=1, batch_format="pyarrow")]
            parts = [block.slice(start, size) for block in blocks for start in range(0, block.num_rows, size)]
            return [decode_rows(part, augment, manifest) for part in parts]
        found = list(split.iter_batches(batch_size=BATCH // world_size, batch_format="numpy", prefetch_batches=1))
        assert all(len(batch["position"]) == BATCH // world_size for batch in found)
        return found

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(drain, stream.streaming_split(world_size, equal=True)))


def consume(reader: RowReader, world_size: int, start_step: int, encoded: bool = False) -> list[dict[str, np.ndarray]]:
    """Returns everything that each rank received from the stream."""
    ranks = batches(reader, world_size, start_step, encoded=encoded)
    return [{name: np.concatenate([batch[name] for batch in found]) for name in found[0]} for found in ranks]


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize(("world_size", "start_step"), [(1, 0), (2, 0), (3, 0), (2, 17)])
def test_each_rank_gets_its_positions_in_order(ray_cluster, reader, world_size, start_step, encoded):
    ranks = consume(reader, world_size, start_step, encoded)

    share = BATCH // world_size
    for rank, arrays in enumerate(ranks):
        expected = [step * BATCH + rank * share + slot for step in range(start_step, STEPS) for slot in range(share)]
        assert arrays["position"].tolist() == expected
    everything = sorted(p for arrays in ranks for p in arrays["position"].tolist())
    assert everything == list(range(start_step * BATCH, STEPS * BATCH))


def test_a_position_has_the_same_pixels_wherever_it_was_decoded(ray_cluster, reader):
    whole = consume(reader, 1, 0)[0]
    resumed = consume(reader, 2, 17, encoded=True)[1]

    for index, position in enumerate(resumed["position"].tolist()):
        assert np.array_equal(resumed["image"][index], whole["image"][position])
        assert np.array_equal(resumed["mask"][index], whole["mask"][position])


def test_soft_labels_arrive_with_their_rows(ray_cluster, reader, tmp_path):
    labelled = RowReader(reader.uri, read_manifest(reader.uri), ["train", "val"])
    labelled.soft_labels = soft_labels_of_masks(labelled, tmp_path / "soft")
    order = training_order(labelled, DataConfig(uri=reader.uri), seed=3, global_batch=BATCH)
    here = make_batch_arrays(encode_rows(labelled, order, [range(STEPS * BATCH)]), AUGMENT, read_manifest(reader.uri))
    assert here["soft_scores"].any() and here["soft_ids"].any()
    for batch in (batch for rank in batches(labelled, 2, 17) for batch in rank):
        for name in ("soft_ids", "soft_scores"):
            assert batch[name].dtype == here[name].dtype
            assert np.array_equal(batch[name], here[name][batch["position"]])


def test_a_fold_that_is_held_out_never_arrives(ray_cluster, reader):
    data = DataConfig(uri=reader.uri, train_splits=("train", "val"), val_split=None, folds=3, held_out=1)
    order, held_out = training_order(reader, data, seed=3, global_batch=BATCH), held_out_rows(reader, data)
    assert set(order.rows(0, STEPS * BATCH)[1].tolist()) == set(range(16)) - set(held_out.tolist())
    rows = encode_rows(reader, order, [range(STEPS * BATCH)])
    here = make_batch_arrays(rows, AUGMENT, read_manifest(reader.uri))["image"]
    for batch in (batch for rank in batches(reader, 2, 0, data=data) for batch in rank):
        assert np.array_equal(batch["image"], here[batch["position"]])
