"""Trainings whose first updates have smaller crops: resumed before, at and after the switch; sizes that do not suit."""

from pathlib import Path

import pytest
import torch

from foodseg.checkpoint.checkpoint import Checkpoint, load_checkpoint
from foodseg.checkpoint.find import newest_checkpoint
from foodseg.config import ExperimentConfig
from foodseg.errors import UserError
from foodseg.train.loop import Trainer, train
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config

pytestmark = pytest.mark.usefixtures("one_thread")
# 3 of 6 updates; an epoch has 12 images, so that the second begins within the small ones
SETTINGS = (
    "train.steps=6", "augment.small_updates=0.55", "augment.crop=64", "augment.longest_side=64", "augment.paste=0.5",
    "model.dropout=0.2", "loss.lovasz=0.5", "train.micro_batch=2", "data.val_split=null",
)  # fmt: skip


def go(config: ExperimentConfig, stop_after: int | None = None, resume: bool = False) -> Checkpoint:
    """Trains, as if a signal came in during update number `stop_after`; returns the newest checkpoint."""
    run, context = prepared(config, resume)
    if stop_after is not None:
        answers = iter(range(1, stop_after + 1))
        context.stop_requested = lambda: next(answers) == stop_after
    train(run.config, run.manifest, run.total_steps, context)
    uri = newest_checkpoint(config.run.uri)
    assert uri is not None
    return load_checkpoint(uri, with_trainer=True)


@pytest.fixture(scope="module")
def whole(data: str, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return go(synthetic_config(data, tmp_path_factory.mktemp("whole") / "r", *SETTINGS))


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_resume_equals_the_undisturbed_run(data: str, tmp_path: Path, whole: Checkpoint, stop: int) -> None:
    config = synthetic_config(data, tmp_path / "r", *SETTINGS)
    assert go(config, stop_after=stop).step == stop
    found = go(config, resume=True)
    assert found.step == whole.step == 6
    for name in ("student", "teacher"):
        expected = getattr(whole, name)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in getattr(found, name).items())


def test_each_update_has_the_size_that_its_number_says(data: str, tmp_path: Path) -> None:
    run, context = prepared(synthetic_config(data, tmp_path / "r", *SETTINGS))
    assert run.order.small_steps == 3
    trainer = Trainer(run.config, run.manifest, run.total_steps, context)
    for start in (0, 2, 3, 5):
        sizes = [tuple(batch.image.shape[-2:]) for batch in context.batches(start, 6)]
        updates = [start + index // 2 for index in range(len(sizes))]  # of two micro-batches each
        assert sizes == [(32, 32) if update < 3 else (64, 64) for update in updates]
    batch = next(context.batches(0, 1))
    assert trainer.task.loss(trainer.wrapped, batch, 0).keys() == {"cross_entropy", "lovasz"}


def test_both_sizes_have_to_suit_the_backbone(data: str, tmp_path: Path) -> None:
    settings = ("train.micro_batch=1", "augment.crop=64")
    prepared(synthetic_config(data, tmp_path / "large", *settings))
    with pytest.raises(UserError, match=r"of a crop of 32 pixels the layer .* sees one value per channel"):
        prepared(synthetic_config(data, tmp_path / "small", *settings, "augment.small_updates=0.5"))
