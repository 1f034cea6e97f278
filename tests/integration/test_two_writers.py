"""Two processes that write one run, one sweep or one data set at once: one wins, the other gets one sentence."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import yaml

from foodseg import storage
from foodseg.prepare.generations import next_generation, switch_to
from foodseg.train.backbone_weights import BACKBONE_FILE
from foodseg.train.run import prepare_run
from foodseg.tune import sweep_files
from tests.conftest import BUCKET
from tests.support.racing_writers import RacingWriters
from tests.support.s3_server import S3Server
from tests.support.synthetic_set import synthetic_config, write_synthetic
from tests.unit.prepare import test_generations as generations

ROUNDS = 3


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def writers(s3_address: S3Server | None) -> Iterator[RacingWriters]:
    with RacingWriters() as running:  # they inherit the address of the S3 server
        yield running


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/two-writers-{os.urandom(4).hex()}"


def read_yaml(uri: str) -> Any:
    return yaml.safe_load(storage.read_text(uri))


def winner_of(outcomes: list[str | None], sentence: str) -> int:
    """The number of the one that wrote; the other was refused with this sentence, and nothing more."""
    assert outcomes.count(None) == 1, outcomes
    (said,) = (outcome for outcome in outcomes if outcome is not None)
    assert sentence in said and "\n" not in said
    return outcomes.index(None)


def test_of_two_that_begin_a_run(root: str, data: str, writers: RacingWriters) -> None:
    for number in range(ROUNDS):
        uri = storage.join(root, str(number))
        winner = winner_of(
            writers.race("run", uri, data=data), f"the run directory {uri} is not empty: give --resume to"
        )
        # both files are those of one process
        assert read_yaml(storage.join(uri, "config.yaml"))["train"]["seed"] == winner
        assert safetensors.torch.load(storage.read_bytes(storage.join(uri, BACKBONE_FILE)))["number"].item() == winner


def test_of_two_that_begin_a_sweep(root: str, writers: RacingWriters) -> None:
    for number in range(ROUNDS):
        uri = storage.join(root, str(number))
        winner = winner_of(writers.race("sweep", uri), f"{uri} is not empty: give --resume")
        assert read_yaml(storage.join(uri, "sweep.yaml")) == {"sweep": {"seed": winner}}


def test_of_two_that_resume_a_run(root: str, data: str, writers: RacingWriters) -> None:
    prepare_run(synthetic_config(data, root, "train.max_failures=7"), resume=False)
    for _ in range(ROUNDS):
        outcomes = writers.race("resumed_run", root, data=data)
        winner = winner_of(outcomes, f"run.uri {root} is being written by another command (process id ")
        assert read_yaml(storage.join(root, "config.yaml"))["train"]["max_failures"] == winner
        assert storage.list_names(root) == ["config.yaml"]  # the sign that it was in use is gone


def test_of_two_that_resume_a_sweep(root: str, writers: RacingWriters) -> None:
    sweep_files.begin(root, "sweep.yaml", {"sweep": {"trials": 7}}, resume=False)
    for _ in range(ROUNDS):
        winner = winner_of(
            writers.race("resumed_sweep", root), f"sweep.uri {root} is being written by another command (process id "
        )
        assert read_yaml(storage.join(root, "sweep.yaml")) == {"sweep": {"trials": winner + 1}}
        assert storage.list_names(root) == ["sweep.yaml"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_that_publish_a_generation(root: str, writers: RacingWriters, overwrite: bool) -> None:
    for number in range(ROUNDS):
        uri = storage.join(root, str(number))
        if overwrite:
            first = next_generation(uri, False, "f")
            switch_to(first, generations.written(first, "old"))
        outcomes = writers.race("generation", uri, overwrite=overwrite)
        if overwrite:  # the second has looked again, and the last one stays
            assert outcomes == [None, None] and generations.rows(uri) in (["0"], ["1"])
        else:
            winner = winner_of(outcomes, f"{uri} has been prepared by another command meanwhile, and stays as that one")
            assert generations.rows(uri) == [str(winner)]
            assert storage.list_names(uri) == ["dataset.json", f"v-1-{str(winner) * 12}"]
