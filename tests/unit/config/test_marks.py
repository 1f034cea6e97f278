"""The marks of the keys: the keys of each mark, one by one, and that a key without a mark has none."""

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from foodseg.config import ExperimentConfig
from foodseg.config.data import WeightedData
from foodseg.config.load import leaves
from foodseg.config.marks import (
    ExecutionOnly,
    MayChangeOnResume,
    NotSearched,
    SetByAblation,
    Uri,
    is_below,
    keys_with,
    with_resolved_uris,
    written_uris,
)
from foodseg.config.section import Section
from foodseg.config.serve import ServeConfig
from foodseg.config.sweep import AblationFile, SweepConfig, SweepFile
from foodseg.config.train import TrainConfig
from foodseg.config.zero_shot import ZeroShotConfig
from foodseg.train import run as run_module
from foodseg.tune import sweep_files


def test_uris_of_a_training() -> None:
    expected = {
        "data.uri", "data.uris[].uri", "model.weights", "model.vit.weights", "model.text.table", "distill.teacher",
        "distill.labels", "roi.context_weights", "data.cache", "train.latent_cache", "run.uri",
    }  # fmt: skip
    keys = keys_with(ExperimentConfig, Uri)
    assert set(keys) == expected and len(keys) == len(expected)


def test_uris_of_sweeps_ablations_and_the_endpoint() -> None:
    assert keys_with(SweepFile, Uri) == ("sweep.uri",)
    assert keys_with(AblationFile, Uri) == ("ablation.uri", "ablation.data", "ablation.subsets")
    assert keys_with(ServeConfig, Uri) == (
        "http.keys_file", "segmenter.models", "sam.weights", "clip.model", "clip.weights",
        "clip.dense.external_weights", "regions.model",
    )  # fmt: skip
    assert keys_with(ZeroShotConfig, Uri) == ("clip.model", "clip.weights", "dense.external_weights")


def test_what_may_change_on_resume() -> None:
    assert set(keys_with(ExperimentConfig, ExecutionOnly, MayChangeOnResume)) == {
        "scaling", "run", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.max_failures",
        "train.mlflow_uri", "train.micro_batch", "train.latent_cache", "model.diffusion.gradient_checkpointing",
        "distill.labels", "data.decode", "data.decode_processes", "data.cache",
    }  # fmt: skip


def test_what_may_change_of_a_sweep_or_an_ablation() -> None:
    assert set(sweep_files._keys_that_may_change()) == {
        "sweep.trials", "sweep.hours", "sweep.worker_hours", "sweep.concurrent", "sweep.uri", "ablation.uri",
        "ablation.concurrent", "ablation.seeds", "ablation.subsets", "ablation.resamples", "contrasts",
        "config.scaling", "config.run",
    }  # fmt: skip


def test_where_a_training_runs_is_not_part_of_its_hash() -> None:
    assert keys_with(ExperimentConfig, ExecutionOnly) == ("scaling", "run")


def test_what_a_sweep_and_an_ablation_set_themselves() -> None:
    folds = {"data.folds", "data.held_out"}
    fixed = {"data.uri", "data.uris", "data.val_split", "data.val_limit", "train.mlflow_uri", *folds}
    assert set(keys_with(ExperimentConfig, NotSearched)) == {
        *fixed, "data.decode", "data.decode_processes", "data.cache",
    }  # fmt: skip
    assert set(keys_with(ExperimentConfig, SetByAblation)) == {"train.seed", "eval.weights", *folds}


def test_no_other_key_of_the_configuration_lies_below_a_marked_one() -> None:
    """A list of beginnings would take `train.log_every_epoch` for `train.log_every`."""
    assert is_below("train.log_every", ("train.log_every",)) and is_below("run.uri", ("run",))
    assert not is_below("train.log_every_epoch", ("train.log_every",)) and not is_below("run", ("run.uri",))
    keys = [key for key, _ in leaves(ExperimentConfig().model_dump())]
    sections = keys_with(ExperimentConfig, ExecutionOnly)
    below = {key for key in keys if is_below(key, sections)}
    assert below == {"scaling.num_workers", "scaling.use_gpu", "scaling.resources_per_worker", "run.uri"}


class _LongerTrain(TrainConfig):
    learned: int = 0
    shown: Annotated[int, MayChangeOnResume()] = 0


class _LongerConfig(ExperimentConfig):
    train: _LongerTrain = Field(_LongerTrain())


def test_a_new_key_may_not_change_on_resume_unless_it_is_marked() -> None:
    changed = _LongerConfig(train=_LongerTrain(learned=1, shown=1))
    assert run_module._changed_keys(_LongerConfig(), changed) == ["train.learned was 0, now 1"]


def test_what_is_written_must_outlive_a_job() -> None:
    assert written_uris(ExperimentConfig()) == {"run.uri": "runs/default"}
    train = TrainConfig.model_construct(latent_cache="latents")
    both = ExperimentConfig().model_copy(update={"train": train})
    assert list(written_uris(both).items()) == [("run.uri", "runs/default"), ("train.latent_cache", "latents")]
    assert written_uris(SweepConfig(), "sweep.") == {"sweep.uri": "runs/sweep"}
    assert written_uris(AblationFile().ablation, "ablation.") == {"ablation.uri": "runs/ablation"}


class _Inner(Section):
    paths: tuple[WeightedData, ...] = ()
    other: str = "plain"


class _Outer(Section):
    weights: Annotated[str, Uri(names=("none",), schemes=("hf://",))] = "none"
    inner: _Inner | None = None


@pytest.mark.parametrize("weights", ["none", "hf://owner/name", "s3://bucket/w", "/w"])
def test_what_is_not_a_relative_path_stays(weights: str) -> None:
    assert with_resolved_uris(_Outer(weights=weights)) == {"weights": weights, "inner": None}


def test_relative_paths_are_resolved_at_every_depth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = _Outer(weights="none.pth", inner=_Inner(paths=(WeightedData(uri="a"), WeightedData(uri="s3://b/c"))))
    assert with_resolved_uris(config) == {
        "weights": str(tmp_path / "none.pth"),
        "inner": {
            "paths": [{"uri": str(tmp_path / "a"), "weight": 1}, {"uri": "s3://b/c", "weight": 1}],
            "other": "plain",
        },
    }
    assert keys_with(_Outer, Uri) == ("weights", "inner.paths[].uri")


class _Many(Section):
    listed: Annotated[tuple[str, ...], Uri()] = ()
    named: Annotated[dict[str, str], Uri()] = Field({})
    published: Annotated[str, Uri(or_name=True)] = "tag"
    inner: _Inner = _Inner()


@pytest.mark.parametrize("exclude_unset", [False, True])
def test_every_path_of_a_list_and_of_a_table_is_resolved(
    exclude_unset: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = _Many(listed=("a", "s3://b/c"), named={"x": "d"}, published="other")
    assert with_resolved_uris(config, exclude_unset=exclude_unset) == {
        "listed": [str(tmp_path / "a"), "s3://b/c"],
        "named": {"x": str(tmp_path / "d")},
        "published": "other",
        **({} if exclude_unset else {"inner": {"paths": [], "other": "plain"}}),
    }


@pytest.mark.parametrize("given", [{}, {"published": "tag"}])
def test_a_name_is_a_path_only_where_a_file_lies(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_resolved_uris(_Many.model_validate(given), exclude_unset=True) == given
    (tmp_path / "tag").touch()
    found = with_resolved_uris(_Many.model_validate(given), exclude_unset=True)
    assert found == {"published": str(tmp_path / "tag")}
