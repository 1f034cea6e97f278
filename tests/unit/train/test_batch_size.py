"""A BatchNorm layer that would see one value per channel is found before anything starts, whatever brings it about."""

import pytest
import torch
from torch import nn

from foodseg.errors import UserError
from foodseg.train.batch_size import micro_batch_size, require_statistics
from foodseg.train.loop import train
from foodseg.train.run import prepare_run
from tests.support.gloo_rank import prepared
from tests.support.synthetic_set import synthetic_config, write_synthetic

RESNET = "model.backbone=resnet18"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_synthetic(tmp_path_factory.mktemp("data"), val=2)


def test_micro_batches_are_all_of_one_size(data, tmp_path):
    sizes = {}
    for batch, most in ((3, 2), (8, 16), (8, 3), (7, 4), (12, 5)):
        config = synthetic_config(data, tmp_path / "r", f"train.global_batch={batch}", f"train.micro_batch={most}")
        sizes[batch, most] = micro_batch_size(config, 1)
    assert sizes == {(3, 2): 1, (8, 16): 8, (8, 3): 2, (7, 4): 1, (12, 5): 4}


@pytest.mark.parametrize(
    ("settings", "who"),
    [
        (["train.global_batch=1"], "training sees one image"),
        (["train.global_batch=3", "train.micro_batch=2"], "training sees one image"),
        (["train.micro_batch=1"], "training sees one image"),
        (["train.global_batch=2", "scaling.num_workers=2"], "with 2 workers each sees one image"),
        (["train.global_batch=4", "scaling.num_workers=[1,4]"], "with 4 workers each sees one image"),
    ],
)
def test_one_value_per_channel_is_refused(data, tmp_path, settings, who):
    config = synthetic_config(data, tmp_path / "r", RESNET, "augment.crop=32", *settings)
    with pytest.raises(
        UserError, match=rf"^{who} .*crop of 32 pixels the layer backbone\.\S+ of resnet18 sees one value"
    ):
        prepare_run(config, resume=False)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "settings",
    [
        ["augment.crop=64", "train.global_batch=1"],
        ["augment.crop=32", "train.global_batch=2"],
        ["augment.crop=32", "train.global_batch=1", "train.batch_norm=frozen"],
        ["augment.crop=32", "train.global_batch=1", "model.strides=[4,8,16]"],
    ],
)
def test_what_is_taken_trains(data, tmp_path, settings):
    run, context = prepared(
        synthetic_config(data, tmp_path / "r", RESNET, "train.steps=1", "data.val_split=null", *settings)
    )
    assert train(run.config, run.manifest, run.total_steps, context).step == 1


class Pooled(nn.Module):
    """A branch that pools the whole image: one value per channel and image, whatever the crop."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.BatchNorm2d(3)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pooled(self.wide(x))


class Normless(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.group_norm(x, 1)


def test_pooled_branches_and_models_without_batch_norm(data, tmp_path):
    one = synthetic_config(data, tmp_path / "r", "train.global_batch=1", "augment.crop=512")
    with pytest.raises(UserError, match=r"the layer pooled\.2 of"):
        require_statistics(Pooled(), one)
    require_statistics(Pooled(), synthetic_config(data, tmp_path / "r", "train.global_batch=2"))
    require_statistics(Normless(), one)


def test_statistics_over_all_workers_need_one_image_each(data, tmp_path):
    gpus = ["scaling.use_gpu=true", "train.batch_norm=sync"]
    require_statistics(
        Pooled(), synthetic_config(data, tmp_path / "r", "train.global_batch=2", "scaling.num_workers=2", *gpus)
    )
    with pytest.raises(UserError, match=r"^training sees one image"):
        require_statistics(
            Pooled(), synthetic_config(data, tmp_path / "r", "train.global_batch=1", "scaling.num_workers=1", *gpus)
        )
