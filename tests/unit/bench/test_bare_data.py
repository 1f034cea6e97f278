"""The decode ceiling: the same crops as the stream's, on as many threads, processes or workers as asked for."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from foodseg.bench.bare_data import EncodedRows, bare_rate, encoded_rows, image_facts, loader_rate
from foodseg.data.decode import encode_rows, make_batch_arrays
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.data.training_rows import training_order
from tests.support.synthetic_set import SIDE, synthetic_config, write_synthetic


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> EncodedRows:
    folder: Path = tmp_path_factory.mktemp("synthetic")
    config = synthetic_config(write_synthetic(folder / "data"), folder / "run")
    manifest = read_manifest(config.data.uri)
    reader = RowReader(config.data.uri, manifest, ["train"])
    order = training_order(reader, config.data, seed=0, global_batch=4)
    expected = make_batch_arrays(encode_rows(reader, order, [range(4)]), config.augment, manifest)
    found = encoded_rows(reader, order, 4, config.augment, manifest)
    np.testing.assert_array_equal(next(found.decode_forever(0, 1))["image"], expected["image"])
    return found


def test_an_epoch_is_held_and_described(rows: EncodedRows) -> None:
    facts = image_facts(rows)
    assert facts.in_memory == 12
    assert facts.median_longest_side == SIDE
    assert SIDE * 3 / 4 <= facts.median_shortest_side <= SIDE
    assert 500 < facts.mean_encoded_bytes < 50_000


def test_each_user_begins_elsewhere_and_goes_round(rows: EncodedRows) -> None:
    firsts = [[int(batch["position"][0]) for batch in islice(rows.decode_forever(share, 2), 4)] for share in range(2)]
    assert firsts == [[0, 4, 8, 0], [4, 8, 0, 4]]


def test_bare_rate_measures_the_fastest_way(rows: EncodedRows) -> None:
    found = bare_rate(rows, cores=2, seconds=0.3)
    assert set(found.trials) == {"threads 1", "threads 2", "processes 2"}
    assert found.trials[f"{found.kind} {found.count}"] == max(found.trials.values())
    assert found.images_per_second > 0
    # each thread or process has at most a core
    assert 0 < found.cpu_microseconds <= 1.1e6 * found.count / found.images_per_second


def test_loader_rate(rows: EncodedRows) -> None:
    found = loader_rate(rows, workers=2, seconds=0.3)
    assert found.images_per_second > 0
    assert found.seconds >= 0.3
    assert found.workers == 2
