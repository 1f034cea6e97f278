"""The contract of `TrainContext`: one suite for a process without Ray, and for two workers on Ray.

Each process of a run that resumes from step 2 writes down what its context returns, and then trains to the end.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from foodseg.checkpoint.find import newest_checkpoint
from foodseg.checkpoint.run_layout import checkpoint_uri
from foodseg.config import ExperimentConfig
from foodseg.data.shards import Manifest
from foodseg.train.context import TrainContext
from foodseg.train.loop import train
from foodseg.train.ray_trainer import run_training
from foodseg.train.ray_worker import RayContext
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_synthetic

BATCH, STEPS, DONE = 4, 6, 2
SETTINGS = [f"train.steps={STEPS}", f"train.global_batch={BATCH}", "train.micro_batch=1", "train.checkpoint_every=2"]


def write_facts(context: TrainContext, config: ExperimentConfig) -> None:
    """Asks for everything that the loop may ask for, and writes the answers to facts-<rank>.json."""
    restored = context.restore()
    batches = context.batches(DONE, STEPS)
    facts = {
        "rank": context.rank,
        "world_size": context.world_size,
        "device": context.device.type,
        "restored": restored,
        "positions": [batch.position.tolist() for batch in batches],
        "sum": context.all_reduce(torch.tensor([1.0, float(context.rank)])).tolist(),
        "broadcast": context.broadcast({"from": context.rank}),
        "stop": context.stop_requested(),
    }
    Path(config.run.uri, f"facts-{context.rank}.json").write_text(json.dumps(facts))


def asked(config: ExperimentConfig, manifest: Manifest) -> RayContext:
    """A `build_context` of a worker."""
    context = RayContext(config, manifest)
    write_facts(context, config)
    return context


@pytest.fixture(scope="module", params=[0, pytest.param(2, marks=pytest.mark.chaos)], ids=["no Ray", "two workers"])
def seen(
    request: pytest.FixtureRequest, ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, list[dict[str, Any]]]:
    """The run and the facts of each rank."""
    folder = tmp_path_factory.mktemp("contexts")
    data, uri = write_synthetic(folder / "data"), str(folder / "run")
    run, local = prepared(synthetic_config(data, uri, *SETTINGS))
    answers = iter([False, True])
    local.stop_requested = lambda: next(answers)  # type: ignore[method-assign]
    assert train(run.config, run.manifest, run.total_steps, local).step == DONE

    config = synthetic_config(data, uri, *SETTINGS, f"scaling.num_workers={request.param}")
    if request.param == 0:
        write_facts(prepared(config, resume=True)[1], config)
    assert run_training(config, resume=True, build_context=asked).step == STEPS
    return uri, [json.loads(path.read_text()) for path in sorted(Path(uri).glob("facts-*.json"))]


def test_ranks_and_devices(seen: tuple[str, list[dict[str, Any]]]) -> None:
    facts = seen[1]
    assert [f["rank"] for f in facts] == list(range(len(facts)))
    assert {f["world_size"] for f in facts} == {len(facts)} and {f["device"] for f in facts} == {"cpu"}


def test_each_rank_gets_its_own_positions_from_the_start_step_on(seen: tuple[str, list[dict[str, Any]]]) -> None:
    facts = seen[1]
    share = BATCH // len(facts)
    for f in facts:
        firsts = [step * BATCH + f["rank"] * share for step in range(DONE, STEPS)]
        assert f["positions"] == [[first + i] for first in firsts for i in range(share)]


def test_all_reduce_adds_up_over_the_ranks(seen: tuple[str, list[dict[str, Any]]]) -> None:
    expected = {1: [1.0, 0.0], 2: [2.0, 1.0]}[len(seen[1])]
    assert [f["sum"] for f in seen[1]] == [expected] * len(seen[1])


def test_broadcast_gives_the_value_of_rank_0(seen: tuple[str, list[dict[str, Any]]]) -> None:
    assert all(f["broadcast"] == {"from": 0} for f in seen[1])


def test_every_rank_restores_the_newest_checkpoint(seen: tuple[str, list[dict[str, Any]]]) -> None:
    uri, facts = seen
    assert {f["restored"] for f in facts} == {checkpoint_uri(uri, DONE)}


def test_nobody_asks_for_a_stop_by_itself(seen: tuple[str, list[dict[str, Any]]]) -> None:
    assert not any(f["stop"] for f in seen[1])


def test_what_is_reported_is_on_storage(seen: tuple[str, list[dict[str, Any]]]) -> None:
    uri = seen[0]
    assert newest_checkpoint(uri) == checkpoint_uri(uri, STEPS)
    assert json.loads(Path(uri, "last.json").read_text())["step"] == STEPS
