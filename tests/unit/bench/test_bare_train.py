"""The bare loop does the same work as the Trainer: the same loss on the same batches."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import torch

from foodseg.bench.bare_train import BareLoop, prefetched, run_bare
from foodseg.bench.feed import Clock, decoded_batches, memory_batches, rate_between
from foodseg.checkpoint.checkpoint import load_checkpoint
from foodseg.data.reader import RowReader
from foodseg.data.shards import read_manifest
from foodseg.data.training_rows import training_order
from foodseg.train.context import LocalContext
from foodseg.train.loop import train
from tests.support.compare import assert_close, close
from tests.support.synthetic_set import synthetic_config, write_synthetic


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("synthetic") / "data")


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_first_update_gives_the_trainers_loss(data: str, tmp_path: Path, micro_batch: int) -> None:
    settings = ["train.ema_horizon=0", "eval.weights=student", "model.dropout=0", "data.val_split=null"]
    config = synthetic_config(data, tmp_path, "train.steps=1", *settings, f"train.micro_batch={micro_batch}")
    manifest = read_manifest(data)
    reader = RowReader(data, manifest, ["train"])
    train(config, manifest, 1, LocalContext(config, manifest, reader, training_order(reader, config.data, 0, 4)))
    logged = json.loads((tmp_path / "log.jsonl").read_text())
    trained = load_checkpoint(str(tmp_path / "checkpoints" / "step-00000001")).student

    loop = BareLoop(config, manifest, world_size=1)  # the same seed gives the same weights
    window = list(decoded_batches(config, manifest, rank=0, world_size=1, steps=1))
    assert len(window) == 4 // micro_batch
    assert loop.update(window).item() == close(logged["loss/cross_entropy"])
    statistics = {name: tensor for name, tensor in loop.model.state_dict().items() if "running" in name}
    assert statistics
    for name, tensor in statistics.items():
        assert_close(tensor, trained[name])


@pytest.mark.parametrize(("rank", "world_size", "micro_batch"), [(0, 1, 4), (0, 1, 2), (1, 2, 4), (0, 2, 1)])
def test_memory_batches_hold_the_positions_that_are_due(
    data: str, tmp_path: Path, rank: int, world_size: int, micro_batch: int
) -> None:
    config = synthetic_config(data, tmp_path, f"train.micro_batch={micro_batch}")
    share = 4 // world_size
    batches = list(memory_batches(config, read_manifest(data), rank, world_size, steps=6))
    found = torch.cat([batch.position for batch in batches]).tolist()
    assert found == [4 * step + rank * share + slot for step in range(6) for slot in range(share)]
    per_step = share // min(share, micro_batch)
    assert torch.equal(batches[0].image, batches[4 * per_step].image)
    assert not torch.equal(batches[0].image, batches[per_step].image)


def test_decoded_batches_are_the_ranks_rows(data: str, tmp_path: Path) -> None:
    config = synthetic_config(data, tmp_path)
    batches = list(decoded_batches(config, read_manifest(data), rank=1, world_size=2, steps=3))
    assert [batch.position.tolist() for batch in batches] == [[2, 3], [6, 7], [10, 11]]


def test_prefetched_hands_over_batches_and_errors() -> None:
    assert list(prefetched(iter("abcdefgh"))) == list("abcdefgh")  # type: ignore[arg-type]

    def breaks() -> Iterator[str]:
        yield "a"
        raise ValueError("row 1")

    batches = prefetched(breaks())  # type: ignore[arg-type]
    assert next(batches) == "a"
    with pytest.raises(ValueError, match="row 1"):
        next(batches)


def test_clock_ticks_once_an_update() -> None:
    clock = Clock()
    assert len(list(islice(clock.watch(iter("abcdef"), 2), 5))) == 5  # type: ignore[arg-type]
    assert len(clock.ticks) == 3


@pytest.mark.parametrize(("warmup", "expected"), [(0, 8 * 4 / 8.0), (2, 8 * 2 / 2.0)])
def test_rate_between(warmup: int, expected: float) -> None:
    assert rate_between([10.0, 14.0, 16.0, 17.0, 18.0], warmup, global_batch=8) == expected


@pytest.mark.parametrize("feed", ["memory", "decode"])
def test_run_bare_trains_every_step(data: str, tmp_path: Path, feed: str) -> None:
    ticks, loss = run_bare(synthetic_config(data, tmp_path), feed, rank=0, world_size=1)
    assert len(ticks) == 4
    assert ticks == sorted(ticks)
    assert 0 < loss < 20
